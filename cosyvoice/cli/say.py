"""`cosyvoice say`: text in, a file or sound out. What can be wrong is checked before the model speaks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosyvoice.cli.output import check_output, check_spectrogram, check_subtitles, write_spectrogram, write_speech
from cosyvoice.cli.player import Player, find_player
from cosyvoice.errors import OutputError, TextError, VoiceError

if TYPE_CHECKING:
    from rich.progress import Progress

    from cosyvoice.engine.pipeline import TTS
    from cosyvoice.engine.speech import Speech
    from cosyvoice.voice.voice import Voice


def say(
    text: Annotated[
        str | None, typer.Argument(help="What to say; '-' reads standard input.", show_default=False)
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from this file.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Audio file: .wav, .flac, .ogg or .mp3; '-' writes WAV to standard output."),
    ] = None,
    play: Annotated[bool, typer.Option("--play", help="Play the speech.")] = False,
    voice: Annotated[str | None, typer.Option(help="A voice by name; the first of the model otherwise.")] = None,
    ref: Annotated[Path | None, typer.Option(help="Speak like this recording (1 to 30 s).")] = None,
    transcript: Annotated[str, typer.Option(help="What the recording of --ref says.")] = "",
    instruct: Annotated[str | None, typer.Option(help="How to say it, for models that follow instructions.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same speech.")] = None,
    speed: Annotated[float, typer.Option(help="Pace, 0.25 to 4.")] = 1.0,
    stream: Annotated[
        bool, typer.Option("--stream", help="Compute in chunks; with --play, play them at once.")
    ] = False,
    spectrogram: Annotated[Path | None, typer.Option(help="Also draw the spectrogram to this PNG file.")] = None,
    subtitles: Annotated[
        Path | None, typer.Option(help="Also write subtitles, .srt or .vtt, of English speech.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model directory; the model of the package otherwise.")] = None,
    backend: Annotated[str, typer.Option(help="native, reference (PyTorch), or auto: native where it can.")] = "auto",
    variant: Annotated[
        str, typer.Option(help="Weights of the language model of a released directory, rl for llm.rl.pt.")
    ] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all cores otherwise.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of the flow: fewer are faster and less exact. Those of the model otherwise."),
    ] = None,
    guided_until: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Flow time, of 0 to 1, from which the steps of the flow go without guidance, at half the cost.",
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="What runs flow and vocoder: onnxruntime, or openvino where it is installed.")
    ] = None,
) -> None:
    """Speak a text.

    Prints the length of the speech, the real-time factor (seconds of work a second of speech) and the time to
    the first audio.
    """
    if out is None and not play:
        raise OutputError("nothing to do with the speech; name a file with -o, or use --play")
    if voice is not None and ref is not None:
        raise VoiceError("--voice and --ref are two voices; give one of them")
    if transcript and ref is None:
        raise VoiceError("--transcript belongs to a recording; give it with --ref")
    words = read_text(text, file)
    if out is not None:
        check_output(out)
    if spectrogram is not None:
        check_spectrogram(spectrogram)
    if subtitles is not None:
        check_subtitles(subtitles, words)
    player = find_player() if play else None
    if ref is not None:
        # Here already, since loading the model takes longer than any check of the recording.
        from cosyvoice.voice.checks import read_reference

        read_reference(ref)

    import cosyvoice
    from cosyvoice.native.speed import stage_options

    with _progress() as progress:
        task = progress.add_task("loading the model", total=None)
        options = stage_options(steps, engine, guided_until)  # type: ignore[arg-type]
        tts = cosyvoice.load(model, backend=backend, threads=threads, variant=variant, **options)  # type: ignore[arg-type]
        progress.update(task, description="speaking")
        chosen: Voice = tts.clone(ref, transcript) if ref is not None else tts.voice(voice)

        def advance(done: int, pieces: int) -> None:
            progress.update(task, completed=done, total=pieces)

        if stream:
            speech = _streamed(tts, words, chosen, seed, speed, instruct, player)
        else:
            speech = tts.say(words, chosen, seed=seed, speed=speed, instruct=instruct, progress=advance)
            if player is not None:
                progress.update(task, description="playing")
                with player.open(speech.sample_rate) as sound:
                    sound.write(speech.samples)
    if out is not None:
        write_speech(out, speech)
    if spectrogram is not None:
        write_spectrogram(spectrogram, speech)
    if subtitles is not None:
        from cosyvoice.engine.subtitles import write_subtitles

        write_subtitles(subtitles, tts.align(speech, speech.sample_rate, words))
    _print_report(speech, out)


def read_text(text: str | None, file: Path | None) -> str:
    """The text from the argument, a file or standard input. Raises `TextError` where it is missing or unreadable."""
    if file is not None:
        if text is not None:
            raise TextError("there is a text and a file with text; give one of them")
        try:
            return file.read_text(encoding="utf-8")
        except OSError as error:
            raise TextError(f"{file} cannot be read ({error.strerror}); check the path") from None
        except UnicodeDecodeError:
            raise TextError(f"{file} is no UTF-8 text; convert it, for example with iconv") from None
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        raise TextError("there is no text; give it as an argument, with --file, or through a pipe")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise TextError("standard input is no UTF-8 text; convert it, for example with iconv") from None


def _streamed(
    tts: TTS,
    text: str,
    voice: Voice,
    seed: int | None,
    speed: float,
    instruct: str | None,
    player: Player | None,
) -> Speech:
    """The joined stream; its chunks are played as they come."""
    from contextlib import nullcontext

    import numpy as np

    from cosyvoice.engine.speech import Speech

    stream = tts.stream(text, voice, seed=seed, speed=speed, instruct=instruct)
    chunks = []
    with player.open(tts.sample_rate) if player is not None else nullcontext() as sound:
        for chunk in stream:
            if sound is not None:
                sound.write(chunk.samples)
            chunks.append(chunk.samples)
    return Speech(np.concatenate(chunks), tts.sample_rate, stream.report)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress bar on standard error that disappears; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


def _print_report(speech: Speech, out: Path | None) -> None:
    report = speech.report
    to_stdout = out is not None and str(out) == "-"
    name = "speech" if out is None or to_stdout else str(out)
    line = (
        f"{name}: {speech.duration:.2f} s, RTF {report.rtf:.2f}, "
        f"time to first audio {report.time_to_first_audio:.2f} s, seed {report.seed}"
    )
    if report.retries:
        line += f", {report.retries} {'retry' if report.retries == 1 else 'retries'}"
    typer.echo(line, err=to_stdout)
    for piece in report.doubtful:
        typer.echo(f"warning: {piece.faults[-1].value} in {piece.text!r}; listen to it, or try another seed", err=True)
