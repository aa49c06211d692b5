"""The tabs that turn a text into speech: with a voice as it is, and with an instruction on how to speak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from cosyvoice.engine.instructions import KNOWN_INSTRUCTIONS
from cosyvoice.errors import ConfigError
from cosyvoice.webui.context import Page, check_length, friendly, language_of, seed_field, seed_of
from cosyvoice.webui.result import STOP, ResultPanel

SAMPLE = "Hello, this voice was made on your own machine. What would you like to hear?"


def build_speak(page: Page) -> None:
    """Speak: text, voice, pace and seed; heard at once."""
    _build(page, "speak", instructed=False)


def build_instruct(page: Page) -> None:
    """Instruct: the same with an instruction, or why this model takes none."""
    if not page.tts.model.follows_instructions:
        gr.Markdown(
            f"### {page.tts.model.config.name} follows no instructions\n"
            "This model speaks in the manner of its voice. To say *how* something is spoken (whispered, slowly, in a "
            "dialect), start the page with a released model that was trained on instructions, for example "
            "`cosyvoice web --model Fun-CosyVoice3-0.5B`. With this model, clone a voice from a recording that "
            "is spoken the way you want.",
            elem_id="instruct-none",
        )
        return
    _build(page, "instruct", instructed=True)


def _build(page: Page, name: str, instructed: bool) -> None:
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            text = gr.Textbox(
                SAMPLE, label="Text", lines=5, max_lines=12, elem_id=f"{name}-text", placeholder="What to say",
                info="Shift+Enter speaks.",
            )  # fmt: skip
            instruct = gr.Dropdown(
                list(KNOWN_INSTRUCTIONS), label="How to say it", allow_custom_value=True, visible=instructed
            )
            with gr.Row():
                voice = page.voice_picker()
                language = page.language_picker()
                seed = seed_field()
            speed = gr.Slider(0.5, 2.0, 1.0, step=0.05, label="Speed", elem_id=f"{name}-speed")
            with gr.Row():
                go = gr.Button("Speak", variant="primary", elem_id=f"{name}-go", min_width=140, scale=3)
                stop = gr.Button("Stop", elem_id=f"{name}-stop", min_width=90, scale=1)
        with gr.Column(scale=4, min_width=320):
            panel = ResultPanel(page, name)

    def speak(
        text: str,
        instruct: str | None,
        voice: str | None,
        language: str | None,
        seed: str | None,
        speed: float,
        audio_format: str,
    ) -> Iterator[Any]:
        if instructed and not (instruct or "").strip():
            raise ConfigError("there is no instruction; say how to speak, or use the tab Speak")
        stream = page.tts.stream(
            check_length(text),
            voice,
            seed=seed_of(seed),
            speed=speed,
            instruct=instruct if instructed else None,
            language=language_of(language),
        )
        for warning in stream.report.warnings:
            gr.Warning(warning)
        yield from panel.streamed(stream, audio_format)

    inputs = [text, instruct, voice, language, seed, speed, panel.format]
    running = gr.on(
        [go.click, text.submit], friendly(speak), inputs, panel.outputs, show_progress="hidden", concurrency_limit=4
    )
    stop.click(None, cancels=[running], js=STOP)
