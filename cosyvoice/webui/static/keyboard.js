// Gradio's menus take Tab for a letter that was typed and open again when the keyboard has left them, over the page.
// They do not get to see it; the browser still moves on, and the menu closes as it does for the mouse.
window.addEventListener("keydown", (event) => {
  if (event.key === "Tab" && event.target.matches?.("input[role=combobox]")) event.stopImmediatePropagation();
}, true);
