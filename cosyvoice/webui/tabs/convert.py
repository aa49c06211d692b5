"""The tab that gives a recording another voice, words and melody kept."""

from __future__ import annotations

from typing import Any

import gradio as gr

from cosyvoice.errors import AudioError
from cosyvoice.webui.context import Page, friendly, seed_field, seed_of
from cosyvoice.webui.result import ResultPanel


def build_convert(page: Page) -> None:
    """Convert: recording and voice in, the same words in that voice out."""
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            source = gr.Audio(
                label="Recording to convert",
                type="filepath",
                sources=["upload", "microphone"],
                buttons=[],
                elem_id="convert-source",
            )
            with gr.Row():
                voice = page.voice_picker("New voice")
                seed = seed_field()
            speed = gr.Slider(0.5, 2.0, 1.0, step=0.05, label="Speed")
            go = gr.Button("Convert", variant="primary", elem_id="convert-go")
        with gr.Column(scale=4, min_width=320):
            panel = ResultPanel(page, "convert")

    def convert(path: str | None, voice: str | None, seed: str | None, speed: float, audio_format: str) -> Any:
        if path is None:
            raise AudioError("there is no recording; upload one or record it")
        speech = page.tts.convert(path, voice, seed=seed_of(seed), speed=speed)
        return panel.finished(speech, audio_format)

    inputs = [source, voice, seed, speed, panel.format]
    go.click(friendly(convert), inputs, panel.outputs, show_progress="minimal", show_progress_on=[panel.audio])
