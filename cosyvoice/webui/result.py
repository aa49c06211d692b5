"""Speech on the page: heard while it is made, then to play again, to see, and to take along in any format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from cosyvoice.audio.io import AUDIO_FORMATS
from cosyvoice.engine.picture import draw_speech
from cosyvoice.engine.session import SpeechStream
from cosyvoice.engine.speech import Report, Speech
from cosyvoice.errors import MissingDependencyError
from cosyvoice.webui.context import Page, facts_html, friendly

_PLAY = "(name) => { window.cosyvoicePlayer.play(name); }"
STOP = "() => { window.cosyvoicePlayer.stop(); }"
"""Script that ends the playing."""


class ResultPanel:
    """The components of a result, and what fills them. Made inside a layout of Gradio."""

    def __init__(self, page: Page, name: str) -> None:
        self._page, self._name = page, name
        self.stream = gr.Textbox(visible="hidden", elem_id=f"{name}-stream")
        self.speech = gr.State(None)
        self.audio = gr.Audio(
            label="Speech", type="filepath", interactive=False, buttons=[], elem_id=f"{name}-audio",
            waveform_options=gr.WaveformOptions(show_recording_waveform=True),
        )  # fmt: skip
        with gr.Row(elem_classes="bottom"):
            self.format = gr.Dropdown(
                list(AUDIO_FORMATS), value="wav", label="Format", min_width=130, scale=1, elem_id=f"{name}-format"
            )
            self.download = gr.DownloadButton(
                "Download", interactive=False, elem_id=f"{name}-download", min_width=140, scale=2
            )
        self.facts = gr.HTML(elem_id=f"{name}-facts")
        self.picture = gr.Image(
            label="Waveform and spectrogram", show_label=False, interactive=False,
            buttons=["fullscreen"], elem_id=f"{name}-picture",
            visible=False,
        )  # fmt: skip
        self.stream.change(None, [self.stream], js=_PLAY)
        self.format.change(friendly(self._encoded), [self.speech, self.format], self.download, show_progress="hidden")

    @property
    def outputs(self) -> list[Any]:
        """What `streamed` and `finished` fill, in this order."""
        return [self.stream, self.speech, self.audio, self.download, self.facts, self.picture]

    def streamed(self, stream: SpeechStream, audio_format: str) -> Iterator[Sequence[Any]]:
        """Updates while the speech is made; the browser plays it meanwhile."""
        name, broadcast = self._page.broadcasts.open(self._page.tts.sample_rate)
        parts = []
        try:
            wait = facts_html([("state", "thinking")])
            yield (name, None, None, gr.DownloadButton(interactive=False), wait, gr.Image(visible=False))
            for chunk in stream:
                broadcast.push(chunk.samples)
                parts.append(chunk.samples)
                facts = facts_html([("state", "speaking"), *report_facts(stream.report)[:2]])
                yield (gr.skip(), gr.skip(), gr.skip(), gr.skip(), facts, gr.skip())
        finally:
            broadcast.close()
            stream.close()
        yield self.finished(Speech(np.concatenate(parts), self._page.tts.sample_rate, stream.report), audio_format)

    def finished(self, speech: Speech, audio_format: str) -> Sequence[Any]:
        """Updates for finished speech."""
        folder = self._page.new_folder()
        playable = speech.save(folder / "speech.wav")
        facts = facts_html(report_facts(speech.report))
        picture: Any = gr.skip()
        try:
            image = folder / "speech.png"
            image.write_bytes(draw_speech(speech.samples, speech.sample_rate, size=(10.0, 4.2), transparent=True))
            picture = gr.Image(str(image), visible=True)
        except MissingDependencyError:
            picture = gr.Image(visible=False)
        return (gr.skip(), speech, str(playable), self._encoded(speech, audio_format), facts, picture)

    def _encoded(self, speech: Speech | None, audio_format: str) -> Any:
        if speech is None:
            return gr.DownloadButton(interactive=False)
        path: Path = speech.save(self._page.new_folder() / f"speech.{audio_format}")
        return gr.DownloadButton(f"Download {audio_format.upper()}", value=str(path), interactive=True)


def report_facts(report: Report) -> list[tuple[str, str]]:
    """Timings for a person."""
    facts = [
        ("length", f"{report.duration:.2f} s"),
        ("first audio", f"{report.time_to_first_audio * 1000:.0f} ms"),
        ("real-time factor", f"{report.rtf:.2f}"),
        ("seed", str(report.seed)),
    ]
    facts += [(stage, f"{seconds * 1000:.0f} ms") for stage, seconds in report.stage_seconds.items()]
    if report.retries:
        facts.append(("retries", str(report.retries)))
    return facts
