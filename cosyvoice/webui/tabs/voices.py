"""The tab that shows the voices at hand, lets one hear them, and deletes one's own."""

from __future__ import annotations

import contextlib
from typing import Any

import gradio as gr

from cosyvoice.errors import VoiceError
from cosyvoice.webui.context import Page, facts_html, friendly

_SENTENCE = "Good morning. This is my voice."


def build_voices(page: Page) -> None:
    """Voices: list, details, preview, deletion."""
    table = gr.Dataframe(
        _rows(page), headers=["name", "from", "gender", "description"], interactive=False, label="Voices",
        elem_id="voices-table", wrap=True,
    )  # fmt: skip
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            voice = page.voice_picker(elem_id="voices-voice")
            with gr.Row():
                play = gr.Button("Play", variant="primary", elem_id="voices-play", min_width=110)
                refresh = gr.Button("Refresh", min_width=110)
            sure = gr.Checkbox(label="Yes, delete it for good", elem_id="voices-sure")
            delete = gr.Button("Delete", variant="stop", elem_id="voices-delete")
        with gr.Column(scale=3, min_width=280):
            sound = gr.Audio(
                label="Preview", type="filepath", interactive=False, autoplay=True, buttons=[], elem_id="voices-audio"
            )
            details = gr.HTML(elem_id="voices-details")

    def preview(name: str | None) -> tuple[str, str]:
        chosen = page.tts.voice(name)
        speech = page.tts.say(_SENTENCE, chosen, seed=1)
        path = speech.save(page.new_folder() / f"{chosen.name}.wav")
        facts = [("said in the reference", chosen.transcript or "unknown"), ("consent", chosen.consent or "unknown")]
        return str(path), facts_html([*facts, ("origin", chosen.provenance or "unknown")])

    def remove(name: str | None, sure: bool) -> tuple[Any, bool]:
        if name is None:
            raise VoiceError("there is no voice to delete; choose one")
        if not sure:
            raise VoiceError(f"deleting {name!r} cannot be undone; tick the box first")
        embedding = None
        with contextlib.suppress(VoiceError):
            embedding = page.tts.voice(name).speaker_embedding
        page.tts.store.remove(name)
        if embedding is not None:
            page.tts.forget(embedding)
        gr.Info(f"{name} is deleted.")
        return _rows(page), False

    play.click(friendly(preview), voice, [sound, details])
    deleted = delete.click(friendly(remove), [voice, sure], [table, sure], show_progress="hidden")
    renewed = refresh.click(friendly(lambda: _rows(page)), None, table)
    for event in page.voice_events:
        event.then(friendly(lambda: _rows(page)), None, table, show_progress="hidden")
    page.voice_events += [deleted, renewed]


def _rows(page: Page) -> list[list[str]]:
    """Name, origin, gender and description of every voice; a damaged file is shown as such."""
    presets = page.tts.store.preset_names()
    rows = []
    for name in page.tts.voices():
        origin = "model" if name in presets else "you"
        try:
            voice = page.tts.voice(name)
            rows.append([name, origin, voice.gender, voice.description])
        except VoiceError as error:
            rows.append([name, origin, "", f"damaged: {error}"])
    return rows
