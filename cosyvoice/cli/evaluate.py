"""`cosyvoice evaluate`: how intelligible, how alike and how fast the model speaks, as JSON lines and a
table.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cosyvoice.errors import ConfigError, OutputError, VoiceError


def evaluate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    sentences: Annotated[
        Path | None,
        typer.Option(help="Text file, one sentence a line; the built-in held-out sentences otherwise."),
    ] = None,
    voices: Annotated[
        str | None, typer.Option(help="Voices by name, separated by commas; all of the model's otherwise.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model directory; the model of the package otherwise.")] = None,
    backend: Annotated[str, typer.Option(help="native, reference (PyTorch), or auto: native where it can.")] = "auto",
    refs: Annotated[Path | None, typer.Option(help="Folder of NAME.wav and NAME.txt: speakers to clone.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Corpus folder: clone its held-out speakers.")] = None,
    speakers: Annotated[int, typer.Option(min=1, help="Held-out speakers to clone.")] = 8,
    sentences_per_speaker: Annotated[int, typer.Option(min=1, help="Sentences of each held-out speaker.")] = 5,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first sentences.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every utterance.")] = 1,
    original: Annotated[
        list[str] | None, typer.Option(help="VOICE=SYNTHESISER: what a voice was learned from. Repeatable.")
    ] = None,
    keep_audio: Annotated[bool, typer.Option("--keep-audio", help="Keep the speech in OUT/audio.")] = False,
) -> None:
    """Speak sentences, recognise them, compare with the original speech.

    Writes utterances.jsonl, summary.json, report.md and PNG plots to OUT. Without --voices, --refs and
    --corpus all voices of the model are measured.
    """
    import cosyvoice
    from cosyvoice.evaluation.held_out import read_held_out
    from cosyvoice.evaluation.plan import Plan, find_references, plan_held_out, plan_presets, plan_references
    from cosyvoice.evaluation.recogniser import PocketSphinx
    from cosyvoice.evaluation.run import Evaluation
    from cosyvoice.evaluation.scoring_text import NORMALISER_VERSION
    from cosyvoice.evaluation.sentences import read_sentences
    from cosyvoice.evaluation.similarity import SpeakerEmbedder
    from cosyvoice.evaluation.sources import DebianSources, original_of

    console = Console(stderr=True)
    texts = read_sentences(sentences)[:limit]
    named = _originals(original or [])
    references = find_references(refs) if refs else []
    recogniser = PocketSphinx()
    embed = SpeakerEmbedder(model or cosyvoice.DEFAULT_MODEL)
    sources = DebianSources()
    for voice, source in named.items():
        if source not in sources.names:
            raise VoiceError(f"{voice}={source}: no such original here; there are {', '.join(sources.names) or 'none'}")
    for folder in [out, out / "references"] + ([out / "audio"] if keep_audio else []):
        _make_folder(folder)
    tts = cosyvoice.load(model, backend=backend)  # type: ignore[arg-type]
    chosen = _chosen_voices(voices, tts.voices(), everything=refs is None and corpus is None)
    notes = [f"{sources.missing}; measurements against them are left out"] if sources.missing else []

    with console.status("preparing voices and original speech"):
        plan = Plan((), {})
        if chosen:
            told = {v: original_of(tts.voice(v).description, sources.names) for v in chosen}
            named = {v: source for v, source in told.items() if source} | named
            plan += plan_presets(chosen, texts, sources, embed, named)
        if references:
            plan += plan_references(tts, references, texts, sources, embed)
        if corpus is not None:
            held_out = read_held_out(corpus, speakers, sentences_per_speaker)
            if len(held_out) < speakers:
                notes.append(f"the corpus holds {len(held_out)} usable held-out speakers, {speakers} were asked for")
            plan += plan_held_out(tts, held_out, embed, out / "references")

    evaluation = Evaluation(tts, recogniser, embed, seed, out / "audio" if keep_audio else None)
    results = []
    with (out / "utterances.jsonl").open("w", encoding="utf-8") as file, _progress(console) as progress:
        task = progress.add_task("evaluating", total=len(plan.trials))
        for result in evaluation.run(plan):
            results.append(result)
            file.write(json.dumps(result.as_json(), ensure_ascii=False) + "\n")
            file.flush()
            progress.update(task, advance=1, description=result.voice)
    settings = {
        "model": str(model or "the model of the package"),
        "engine": ", ".join(f"{key} {value}" for key, value in tts.model.stages.description.items()),
        "cosyvoice": cosyvoice.__version__,
        "recogniser": recogniser.name,
        "scoring rules": NORMALISER_VERSION,
        "sentences": f"{len(texts)} of {sentences or 'the built-in list'}",
        "seed": seed,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    _write_reports(out, results, plan, evaluation.embeddings, settings, notes)


def _write_reports(
    out: Path,
    results: list[Any],
    plan: Any,
    embeddings: dict[str, Any],
    settings: dict[str, Any],
    notes: list[str],
) -> None:
    from cosyvoice.evaluation.report import markdown_report, plot_similarity, plot_word_errors, rich_table
    from cosyvoice.evaluation.results import summarise_voices

    summaries = summarise_voices(results)
    plain = {group: {voice: asdict(s) for voice, s in voices.items()} for group, voices in summaries.items()}
    summary = {"settings": settings, "notes": notes, "groups": plain}
    (out / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
    (out / "report.md").write_text(markdown_report(summaries, settings, notes), encoding="utf-8")
    plot_word_errors(summaries, out / "wer.png")
    for group, enrolled in plan.enrolled.items():
        if enrolled and embeddings.get(group):
            plot_similarity(embeddings[group], enrolled, out / f"similarity-{group}.png", group)
    console = Console()
    console.print(rich_table(summaries))
    for note in notes:
        console.print(f"note: {note}")


def _chosen_voices(voices: str | None, known: list[str], everything: bool) -> list[str]:
    if voices is None:
        if everything and not known:
            raise VoiceError("this model brings no voice; give --refs or --corpus")
        return known if everything else []
    chosen = [name.strip() for name in voices.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise VoiceError(f"unknown voice {', '.join(unknown) or voices!r}; there are {', '.join(known) or 'none'}")
    return list(dict.fromkeys(chosen))


def _originals(pairs: list[str]) -> dict[str, str]:
    named = {}
    for pair in pairs:
        voice, separator, source = pair.partition("=")
        if not (voice and separator and source):
            raise ConfigError(f"--original {pair!r} is not VOICE=SYNTHESISER; write for example anna=slt")
        named[voice] = source
    return named


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made ({error.strerror}); choose another folder for the results"
        ) from None


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield progress
