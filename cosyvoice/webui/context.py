"""What the tabs of one page share: the model, streams to the browser, files to give out, and pickers of voices."""

from __future__ import annotations

import functools
import html
import inspect
import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from cosyvoice.engine.pipeline import TTS
from cosyvoice.errors import ConfigError, CosyVoiceError, TextError
from cosyvoice.text.languages import language_name
from cosyvoice.webui.broadcast import Broadcasts
from cosyvoice.webui.recordings import Finding

KEPT_SECONDS = 6 * 3600
"""How long files are kept for download."""
MAX_CHARACTERS = 5000
"""Of a text that is spoken at once; longer ones belong to the tab for long texts."""

AUTO = "auto"
"""The language is told from the text."""

_logger = logging.getLogger("cosyvoice.webui")


@dataclass
class Page:
    """See the module's description. Safe from many threads once the page is built."""

    tts: TTS
    broadcasts: Broadcasts = field(default_factory=Broadcasts)
    pickers: list[gr.Dropdown] = field(default_factory=list)
    """Dropdowns that follow the voices at hand."""
    voice_events: list[Any] = field(default_factory=list)
    """Events after which there are other voices."""
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="cosyvoice-page-", ignore_cleanup_errors=True)
    )

    def voice_picker(self, label: str = "Voice", elem_id: str | None = None) -> gr.Dropdown:
        """A dropdown of all voices that stays up to date."""
        names = self.tts.voices()
        picker = gr.Dropdown(names, value=names[0] if names else None, label=label, min_width=140, elem_id=elem_id)
        self.pickers.append(picker)
        return picker

    def language_picker(self) -> gr.Dropdown:
        """A dropdown of the languages that the model reads; nothing to choose where there is one."""
        known = [(language_name(code), code) for code in self.tts.model.languages]
        several = len(known) > 1
        choices = [(AUTO, AUTO), *known] if several else known
        return gr.Dropdown(choices, value=choices[0][1], label="Language", min_width=110, interactive=several)

    def refreshed_pickers(self, *chosen: str | None) -> list[Any]:
        """Updates for all pickers; a voice that is gone gives way to the first."""
        names = self.tts.voices()
        kept = [value if value in names else (names[0] if names else None) for value in chosen]
        return [gr.Dropdown(choices=names, value=value) for value in kept]

    def new_folder(self) -> Path:
        """An empty directory for files to give out; those of hours ago are removed."""
        root = Path(self._folder.name)
        for old in root.iterdir():
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                _remove(old)
        folder = root / secrets.token_hex(8)
        folder.mkdir()
        return folder


def friendly(function: Callable[..., Any]) -> Callable[..., Any]:
    """An event handler whose errors reach the person as one line; others are logged and told in general terms."""

    def told(error: Exception) -> gr.Error:
        if isinstance(error, CosyVoiceError):
            return gr.Error(str(error), print_exception=False)
        _logger.error("an event of the page failed", exc_info=error)
        return gr.Error("Something broke; the log of the server says what.", print_exception=False)

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generate(*arguments: Any) -> Iterator[Any]:
            try:
                yield from function(*arguments)
            except gr.Error:
                raise
            except Exception as error:
                raise told(error) from None

        return generate

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except gr.Error:
            raise
        except Exception as error:
            raise told(error) from None

    return call


def check_length(text: str | None) -> str:
    """The text itself. Raises `TextError` for one that is too long to be spoken at once."""
    text = text or ""
    if len(text) > MAX_CHARACTERS:
        raise TextError(f"the text has {len(text)} characters, more than {MAX_CHARACTERS}; use the tab Long text")
    return text


def language_of(choice: str | None) -> str | None:
    """The code that was chosen, None for `AUTO`."""
    return None if choice in (None, "", AUTO) else choice


def seed_field(value: str = "") -> gr.Textbox:
    """A field for a seed; empty draws one."""
    return gr.Textbox(value, label="Seed", placeholder="random", max_lines=1, min_width=100)


def seed_of(value: str | None) -> int | None:
    """The seed that was written, None where nothing was. Raises `ConfigError` for anything but a whole number."""
    value = (value or "").strip()
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise ConfigError(f"{value[:40]!r} is no seed; write a whole number from 0, or leave the field empty")
    return int(value)


def findings_html(findings: Sequence[Finding]) -> str:
    """A list of findings with a mark each."""
    spoken = {"ok": "good", "hint": "hint", "wrong": "problem"}
    items = [
        f'<li class="{finding.level}" aria-label="{spoken[finding.level]}: {html.escape(finding.text)}">'
        f"{html.escape(finding.text)}</li>"
        for finding in findings
    ]
    return f'<ul class="findings">{"".join(items)}</ul>' if items else ""


def facts_html(facts: Sequence[tuple[str, str]]) -> str:
    """Names and values in small boxes."""
    boxes = [f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts]
    return f'<dl class="facts">{"".join(boxes)}</dl>'


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink(missing_ok=True)
    folder.rmdir()
