"""The tab that reads a text of any length aloud into files, with a look at where it is."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from cosyvoice.audio.io import AUDIO_FORMATS
from cosyvoice.errors import TextError
from cosyvoice.webui.context import Page, friendly, language_of, seed_field, seed_of
from cosyvoice.webui.documents import SUFFIXES, Document, markdown_document, plain_document, read_document
from cosyvoice.webui.narration import Narration, Progress, Settings, State, summary

_TICK_SECONDS = 0.5
_ONE, _MANY = "one file", "a file for each chapter"
_NONE = "no subtitles"


def build_long_text(page: Page) -> None:
    """Long text: paste or upload, read, pause, go on, download."""
    narration: gr.State = gr.State(None, delete_callback=_stop)
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            text = gr.Textbox(label="Text", lines=8, max_lines=16, elem_id="long-text", placeholder="Paste a text here")
            file = gr.File(
                label="or upload .txt, .md or .epub", file_types=list(SUFFIXES), type="filepath", elem_id="long-file",
                height=120,
            )  # fmt: skip
            about = gr.HTML(elem_id="long-about")
        with gr.Column(scale=3, min_width=320):
            with gr.Row():
                voice = page.voice_picker()
                language = page.language_picker()
                seed = seed_field("1")
            speed = gr.Slider(0.5, 2.0, 1.0, step=0.05, label="Speed")
            with gr.Row():
                audio_format = gr.Dropdown(list(AUDIO_FORMATS), value="mp3", label="Format", min_width=110)
                subtitles = gr.Dropdown([_NONE, "srt", "vtt"], value="srt", label="Subtitles", min_width=130)
            division = gr.Radio([_ONE, _MANY], value=_ONE, label="Result", elem_id="long-division")
            with gr.Row():
                start = gr.Button("Read aloud", variant="primary", elem_id="long-start", min_width=100)
                pause = gr.Button("Pause", interactive=False, elem_id="long-pause", min_width=80)
                stop = gr.Button("Stop", interactive=False, elem_id="long-stop", min_width=80)
    status = gr.HTML(elem_id="long-status")
    sound = gr.Audio(
        label="Result", type="filepath", interactive=False, buttons=[], visible=False, elem_id="long-audio"
    )
    files = gr.File(label="Files", file_count="multiple", interactive=False, visible=False, elem_id="long-files")
    timer = gr.Timer(_TICK_SECONDS, active=False)

    def describe(path: str | None, pasted: str) -> str:
        if path is None and not (pasted or "").strip():
            return ""
        document = _document(path, pasted)
        chapters = ", ".join(chapter.title or "untitled" for chapter in document.chapters[:12])
        more = " …" if len(document.chapters) > 12 else ""
        return (
            f"<p class='muted'>{html.escape(document.title or 'text')}: {document.characters} characters, "
            f"{len(document.chapters)} chapter(s): {html.escape(chapters)}{more}</p>"
        )

    def begin(
        running: Narration | None,
        path: str | None,
        pasted: str,
        voice: str | None,
        language: str | None,
        seed: str | None,
        speed: float,
        audio_format: str,
        subtitles: str,
        division: str,
    ) -> Any:
        document = _document(path, pasted)
        settings = Settings(
            page.tts.voice(voice), seed_of(seed) or 0, speed, audio_format, division == _MANY,
            None if subtitles == _NONE else subtitles, language_of(language),
        )  # fmt: skip
        fresh = Narration(page.tts, document, settings, page.new_folder())
        _stop(running)
        fresh.start()
        return (fresh, *look(fresh))

    def look(running: Narration | None) -> Any:
        progress = running.progress if running is not None else Progress(State.STOPPED, 0, 0)
        over = progress.state.over
        paused = progress.state is State.PAUSED
        playable = [path for path in progress.files if path.suffix.lstrip(".") in AUDIO_FORMATS]
        heard = gr.Audio(str(playable[0]), visible=True) if over and playable else gr.Audio(None, visible=False)
        given = gr.File([str(path) for path in progress.files], visible=bool(progress.files))
        return (
            status_html(progress),
            heard if over else gr.skip(),
            given if over else gr.skip(),
            gr.Button("Resume" if paused else "Pause", interactive=not over),
            gr.Button(interactive=not over),
            gr.Timer(active=not over),
        )

    def toggle(running: Narration | None) -> Any:
        if running is not None:
            if running.progress.state is State.PAUSED:
                running.resume()
            else:
                running.pause()
        return look(running)

    def end(running: Narration | None) -> Any:
        _stop(running)
        if running is not None:
            running.wait(60)
        return look(running)

    view = [status, sound, files, pause, stop, timer]
    gr.on([file.change, text.blur], friendly(describe), [file, text], about, show_progress="hidden")
    start.click(
        friendly(begin),
        [narration, file, text, voice, language, seed, speed, audio_format, subtitles, division],
        [narration, *view],
        show_progress="hidden",
    )
    timer.tick(friendly(look), narration, view, show_progress="hidden", concurrency_limit=None)
    pause.click(friendly(toggle), narration, view, show_progress="hidden")
    stop.click(friendly(end), narration, view, show_progress="hidden")


def status_html(progress: Progress) -> str:
    """A bar, what is being read, and what could not be."""
    if not progress.total:
        return ""
    percent = 100 * progress.done // progress.total
    bar = (
        f'<div class="progress" role="progressbar" aria-valuenow="{percent}" aria-valuemin="0" aria-valuemax="100">'
        f'<div style="width:{percent}%"></div></div>'
    )
    lines = [f"<p>{html.escape(summary(progress))}</p>", bar]
    if progress.current and not progress.state.over:
        lines.append(f'<p class="now">{html.escape(progress.current)}</p>')
    if progress.error:
        lines.append(f"<p><strong>{html.escape(progress.error)}</strong></p>")
    if progress.skipped:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in progress.skipped[:20])
        lines.append(f"<details><summary>not spoken</summary><ul>{items}</ul></details>")
    return "".join(lines)


def _document(path: str | None, pasted: str) -> Document:
    if path is not None:
        return read_document(Path(path))
    pasted = pasted or ""
    if not pasted.strip():
        raise TextError("there is nothing to read; paste a text or upload a file")
    looks_marked = any(line.startswith("#") for line in pasted.splitlines())
    return markdown_document(pasted) if looks_marked else plain_document(pasted)


def _stop(narration: Narration | None) -> None:
    """Also called when a page is closed: nobody would come for the rest."""
    if narration is not None:
        narration.stop()
