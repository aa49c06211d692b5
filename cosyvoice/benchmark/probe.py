"""Measurements that need a process of their own: memory, and the start from nothing.

`python -m cosyvoice.benchmark.probe` is the other process: it is given its order as JSON, and answers with lines of
JSON on standard output. It imports no more than it needs, since imports are part of what is measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosyvoice.errors import GenerationError

if TYPE_CHECKING:
    from cosyvoice.benchmark.contenders import Contender

SENTENCE = "Good morning! The train to the coast leaves at nine."
FIRST_AUDIO = "first audio"


def measure_memory(contender: Contender, threads: int, seconds: float, stream_seconds: float) -> dict[str, Any]:
    """Memory in MB of a process that loads the model, speaks `seconds`, then streams `stream_seconds`.

    `loaded` is after loading, `peak` the most until the utterance is spoken, `chunks` after each chunk of the
    stream, `stream_peak` the most until its end. The reference does not stream: it computes each chunk from
    the start. Raises `GenerationError` where the process fails.
    """
    stream = stream_seconds if contender.backend == "native" else 0.0
    with _start(contender, threads, order="memory", seconds=seconds, stream_seconds=stream) as process:
        out, errors = process.communicate()
    if process.returncode != 0:
        raise _failed(contender, errors)
    answer: dict[str, Any] = json.loads(out)
    return answer


def cold_start(contender: Contender, threads: int) -> None:
    """Start Python, import the package, load the model, and stream `SENTENCE` up to its first chunk.

    How long this takes is what is measured; the process is ended when the chunk is there. Raises
    `GenerationError` where it fails.
    """
    with _start(contender, threads, order="cold") as process:
        line = process.stdout.readline() if process.stdout is not None else ""
        process.kill()
        _, errors = process.communicate()
    if line.strip() != FIRST_AUDIO:
        raise _failed(contender, errors)


def _start(contender: Contender, threads: int, **order: Any) -> subprocess.Popen[str]:
    order |= {"directory": str(contender.directory), "backend": contender.backend, "threads": threads}
    if contender.backend == "native":
        flow, vocoder = contender.options
        order |= {"flow": asdict(flow), "vocoder": asdict(vocoder)}
    command = [sys.executable, "-m", "cosyvoice.benchmark.probe", json.dumps(order)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _failed(contender: Contender, errors: str) -> GenerationError:
    reason = errors.strip().splitlines()[-1] if errors.strip() else "it was ended, perhaps for want of memory"
    return GenerationError(f"a process with {contender.name} of {contender.directory} failed ({reason})")


def _main(order: dict[str, Any]) -> None:
    import cosyvoice

    directory, threads = Path(order["directory"]), order["threads"]
    flow = cosyvoice.FlowOptions(**order["flow"]) if "flow" in order else None
    vocoder = cosyvoice.VocoderOptions(**order["vocoder"]) if "vocoder" in order else None
    tts = cosyvoice.load(directory, backend=order["backend"], threads=threads, flow=flow, vocoder=vocoder)
    if order["order"] == "cold":
        next(tts.stream(SENTENCE, seed=1))
        sys.stdout.write(f"{FIRST_AUDIO}\n")
        sys.stdout.flush()
        return
    sys.stdout.write(json.dumps(_speak(tts, order["seconds"], order["stream_seconds"])))


def _speak(tts: Any, seconds: float, stream_seconds: float) -> dict[str, Any]:
    from cosyvoice.benchmark.machine import peak_resident_mb, resident_mb
    from cosyvoice.benchmark.measurements import measure_stream
    from cosyvoice.benchmark.workload import TEXT, UNGUARDED, Workload

    config, chunks = tts.model.config, []
    answer: dict[str, Any] = {"loaded": resident_mb()}
    work = Workload(config, seconds)
    work.scripted(tts).say(TEXT, work.voice, seed=0, guard=UNGUARDED)
    answer["peak"] = peak_resident_mb()
    if stream_seconds:
        measure_stream(tts, Workload(config, stream_seconds), after_chunk=lambda: chunks.append(resident_mb()))
    return answer | {"chunks": chunks, "stream_peak": peak_resident_mb()}


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
