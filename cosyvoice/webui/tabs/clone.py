"""The tab that makes a voice of a recording: checked while one types, and kept only with the speaker's consent."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import gradio as gr

from cosyvoice.audio.io import read_audio
from cosyvoice.errors import AudioError, VoiceError
from cosyvoice.voice.checks import MAX_SECONDS
from cosyvoice.voice.store import check_name
from cosyvoice.voice.voice import Voice
from cosyvoice.webui.context import Page, findings_html, friendly
from cosyvoice.webui.recordings import examine, listening, usable

_CONSENT = "I am the speaker, or the speaker allowed me to make and use this voice."
_TRIAL = "This is what the new voice sounds like."


def build_clone(page: Page) -> None:
    """Clone: recording, transcript, consent; try it, then save it."""
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            recording = gr.Audio(
                label="3 to 15 seconds of clear speech", type="filepath", sources=["upload", "microphone"], buttons=[],
                elem_id="clone-recording",
            )  # fmt: skip
            transcript = gr.Textbox(
                label="What the recording says", lines=3, elem_id="clone-transcript",
                info="Word by word. Without it the voice takes over the sound only.",
            )  # fmt: skip
            propose = gr.Button(
                "Propose a transcript",
                size="sm",
                visible=find_spec("pocketsphinx") is not None,
                elem_id="clone-propose",
            )
            findings = gr.HTML(elem_id="clone-findings")
        with gr.Column(scale=3, min_width=320):
            with gr.Row():
                name = gr.Textbox(label="Name", elem_id="clone-name", min_width=140, placeholder="anna")
                gender = gr.Dropdown(["", "female", "male"], value="", label="Gender", min_width=120)
            description = gr.Textbox(label="Description", placeholder="calm, low, radio")
            allowed = gr.Checkbox(label=_CONSENT, elem_id="clone-allowed")
            consent = gr.Textbox(
                label="Who allowed it, and for what", elem_id="clone-consent",
                placeholder="Anna Example, 22 November 2026, audio books",
            )  # fmt: skip
            with gr.Row():
                trial = gr.Button("Try it", elem_id="clone-try", min_width=120)
                save = gr.Button("Save the voice", variant="primary", elem_id="clone-save", min_width=120)
            sound = gr.Audio(label="Trial", type="filepath", interactive=False, buttons=[], elem_id="clone-audio")
            saved = gr.Markdown(elem_id="clone-saved")

    def check(path: str | None, words: str) -> str:
        found = examine(path, words, page.tts.model.stages.text.count_phones)
        if path is not None and usable(found):
            found += listening(page.tts, path, words)
        return findings_html(found)

    def write_down(path: str | None) -> str:
        if path is None:
            raise AudioError("there is no recording; upload one or record it")
        from cosyvoice.evaluation.recogniser import PocketSphinx

        samples, rate = read_audio(path, max_seconds=MAX_SECONDS)
        gr.Info("This is a guess, wrong in places: correct it word by word.")
        return PocketSphinx().transcribe(samples, rate)

    def make(
        path: str | None, words: str, name: str, gender: str, description: str, allowed: bool, consent: str
    ) -> Voice:
        if path is None:
            raise AudioError("there is no recording; upload one or record it")
        if not allowed or not consent.strip():
            raise VoiceError("a voice needs the speaker's consent; tick the box and write who allowed it, and for what")
        return page.tts.clone(
            path, words, name=name, gender=gender, description=description.strip(), consent=consent.strip()
        )

    def try_out(*given: Any) -> str:
        values = list(given)
        values[2] = values[2].strip() or "trial"
        speech = page.tts.say(_TRIAL, make(*values), seed=1)
        return str(speech.save(page.new_folder() / "trial.wav"))

    def keep(*given: Any) -> str:
        # The name first, before anything is computed for it.
        values = list(given)
        values[2] = check_name(values[2].strip())
        if values[2] in page.tts.voices():
            raise VoiceError(f"there is a voice {values[2]!r} already; choose another name")
        voice = make(*values)
        page.tts.store.add(voice)
        return f"**{voice.name}** is saved, and can be chosen in every tab."

    inputs = [recording, transcript, name, gender, description, allowed, consent]
    gr.on([recording.change, transcript.change], friendly(check), [recording, transcript], findings,
          show_progress="hidden", trigger_mode="always_last")  # fmt: skip
    propose.click(friendly(write_down), recording, transcript, show_progress_on=[transcript])
    trial.click(friendly(try_out), inputs, sound)
    page.voice_events.append(save.click(friendly(keep), inputs, saved, show_progress_on=[save]))
