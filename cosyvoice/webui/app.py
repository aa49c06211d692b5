"""The page as a whole, to be mounted into any FastAPI application.

Nothing is fetched from other hosts, fonts included, so it works without a network, and nothing is reported to anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from cosyvoice.engine.pipeline import TTS
from cosyvoice.webui.context import Page, friendly
from cosyvoice.webui.tabs.clone import build_clone
from cosyvoice.webui.tabs.convert import build_convert
from cosyvoice.webui.tabs.long_text import build_long_text
from cosyvoice.webui.tabs.speak import build_instruct, build_speak
from cosyvoice.webui.tabs.voices import build_voices

TABS: dict[str, Callable[[Page], None]] = {
    "Speak": build_speak,
    "Clone": build_clone,
    "Convert": build_convert,
    "Instruct": build_instruct,
    "Long text": build_long_text,
    "Voices": build_voices,
}
MAX_UPLOAD = "64mb"
_STATIC = Path(__file__).parent / "static"
_SCRIPTS = ("player.js", "keyboard.js")
_CACHE_SECONDS = 6 * 3600


def build(page: Page) -> gr.Blocks:
    """The layout with all tabs."""
    with gr.Blocks(title="CosyVoice", analytics_enabled=False, delete_cache=(_CACHE_SECONDS, _CACHE_SECONDS)) as blocks:
        gr.Markdown(f"# CosyVoice\nText to speech with {page.tts.model.config.name}", elem_id="title")
        for name, build_tab in TABS.items():
            with gr.Tab(name, id=name):
                build_tab(page)
        refresh = friendly(page.refreshed_pickers)
        for event in page.voice_events:
            event.then(refresh, page.pickers, page.pickers, show_progress="hidden")
        blocks.load(refresh, page.pickers, page.pickers, show_progress="hidden")
    blocks.queue(default_concurrency_limit=4, max_size=64)
    return blocks


def mount(
    app: FastAPI,
    tts: TTS,
    path: str = "/ui",
    login: tuple[str, str] | Callable[[str, str], bool] | None = None,
    auth_dependency: Callable[..., Any] | None = None,
) -> FastAPI:
    """Add the page to `app` under `path`; returns `app`.

    Args:
        app: the application.
        tts: speaks for all who open the page.
        path: where, without a slash at its end; empty for the root.
        login: name and password that the page asks for, or a function that tells whether they are right.
        auth_dependency: a function of a FastAPI request that gives the name of its user or None, where the
            application has its own login.
    """
    page = Page(tts)
    path = path.rstrip("/")

    def speech(name: str) -> StreamingResponse:
        broadcast = page.broadcasts.get(name)
        if broadcast is None:
            raise HTTPException(404, "there is no such speech; speak it again")
        headers = {"x-sample-rate": str(broadcast.sample_rate), "cache-control": "no-store"}
        return StreamingResponse(broadcast.read(), media_type="application/octet-stream", headers=headers)

    # Before the page, which answers to everything under its path.
    app.add_api_route(f"{path}/speech/{{name}}", speech, methods=["GET"], include_in_schema=False)
    return gr.mount_gradio_app(
        app,
        build(page),
        path=path or "/",
        auth=login,
        auth_dependency=auth_dependency,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        footer_links=[],
        show_error=True,
        theme=_theme(),
        css_paths=[_STATIC / "page.css"],
        head="".join(f"<script>{(_STATIC / name).read_text(encoding='utf-8')}</script>" for name in _SCRIPTS),
    )


def _theme() -> gr.themes.Base:
    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "monospace"]
    theme = gr.themes.Base(primary_hue="indigo", neutral_hue="slate", font=sans, font_mono=mono, radius_size="md")
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_border_width="1px",
        block_label_text_color="*body_text_color",
        block_title_text_color="*body_text_color",
        block_title_text_weight="600",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_text_color="white",
    )
