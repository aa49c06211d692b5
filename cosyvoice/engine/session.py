"""One request: the pieces of a text, spoken one after the other, whole or in chunks.

A session owns all that changes while it speaks; the model and its stages stay as they are, so any number of
sessions can run beside each other, and one that is abandoned leaves nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from cosyvoice.engine.decoding import piece_generator
from cosyvoice.engine.guard import Fault, Guard, TokenWatch, distance
from cosyvoice.engine.joining import Joining, PieceEdges, silence
from cosyvoice.engine.models import CosyVoice2Model, Prompt
from cosyvoice.engine.overlap import RunAhead
from cosyvoice.engine.sampling import RASSampler, numpy_multinomial
from cosyvoice.engine.speech import Chunk, PieceReport, Report
from cosyvoice.engine.stages import FloatArray, MelChunk, TokenChunk
from cosyvoice.engine.streaming import ChunkSchedule, StreamingConfig
from cosyvoice.engine.tempo import MelStretcher, stretch
from cosyvoice.errors import GenerationError

Progress = Callable[[int, int], None]
"""Called with the number of pieces spoken and the number of all pieces."""


@dataclass(frozen=True)
class Request:
    """What is asked of a session."""

    pieces: list[str]
    prompt: Prompt
    seed: int
    speed: float = 1.0
    streaming: StreamingConfig | None = None
    """None: each piece is computed whole, with full attention."""
    guard: Guard = field(default_factory=Guard)
    joining: Joining = field(default_factory=Joining)
    progress: Progress | None = None


class SpeechStream:
    """Chunks as they become ready, and the report that grows with them. May be abandoned at any point."""

    def __init__(self, session: Session) -> None:
        self.report = session.report
        self._chunks = session.run()

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def close(self) -> None:
        """Stop generating and give back what the stages hold; dropping the stream does the same."""
        self._chunks.close()


class Session:
    """Speaks one request; `run` once."""

    def __init__(self, model: CosyVoice2Model, request: Request, report: Report) -> None:
        self._model = model
        self._request = request
        self.report = report

    def run(self) -> Generator[Chunk, None, None]:
        """Yield the speech as chunks, without streaming one or two a piece."""
        request, report = self._request, self.report
        start, waited = time.perf_counter() - report.seconds, 0.0
        for samples, piece in self._joined():
            chunk = Chunk(samples, report.sample_rate, report.samples, piece)
            now = time.perf_counter()
            if report.samples == 0:
                report.time_to_first_audio = now - start
            report.samples += len(samples)
            report.seconds = now - start - waited
            yield chunk
            waited += time.perf_counter() - now
        report.seconds = time.perf_counter() - start - waited
        if report.samples == 0:
            raise GenerationError(
                f"the model said nothing to {request.pieces[0][:40]!r}; try another seed or another voice"
            )

    def _joined(self) -> Iterator[tuple[FloatArray, int]]:
        """Non-empty stretches of samples with the number of their piece, pauses included."""
        request, rate = self._request, self.report.sample_rate
        for number, text in enumerate(request.pieces):
            piece = PieceReport(text)
            self.report.pieces.append(piece)
            speak = self._whole if request.streaming is None else self._streamed
            edges = PieceEdges(request.joining, rate)
            for samples in speak(number, piece):
                ready = edges.push(samples)
                if len(ready):
                    yield ready, number
            rest = edges.finish()
            if number + 1 < len(request.pieces):
                rest = np.concatenate([rest, silence(request.joining.pause_after(text), rate)])
            if request.progress is not None:
                request.progress(number + 1, len(request.pieces))
            if len(rest):
                yield rest, number

    def _whole(self, number: int, piece: PieceReport) -> Iterator[FloatArray]:
        """The samples of a piece from one call of flow and vocoder; the best attempt if all have faults."""
        best: tuple[float, list[int]] | None = None
        for attempt in range(self._request.guard.retries + 1):
            piece.retries = attempt
            tokens, watch, fault = self._tokens(number, attempt, piece.text)
            if fault is None:
                samples = self._render(tokens)
                fault = self._request.guard.audio_fault(samples, self.report.sample_rate)
                if fault is None:
                    piece.tokens = len(tokens)
                    yield samples
                    return
            piece.faults.append(fault)
            score = distance(tokens, watch.expected)
            if best is None or score < best[0]:
                best = score, tokens
        if best is not None:
            piece.tokens = len(best[1])
            yield self._render(best[1])

    def _tokens(self, number: int, attempt: int, text: str) -> tuple[list[int], TokenWatch, Fault | None]:
        """All tokens of one attempt, up to its first fault."""
        ids, watch = self._watched(text)
        tokens: list[int] = []
        with closing(self._generate(ids, number, attempt, watch.limit)) as generated:
            for token in generated:
                tokens.append(token)
                fault = watch.push(token)
                if fault is not None:
                    return tokens, watch, fault
        return tokens, watch, watch.finish()

    def _render(self, tokens: list[int]) -> FloatArray:
        stages, report = self._model.stages, self.report
        spoken = list(self._model.spoken(iter(tokens)))
        if not spoken:
            return np.zeros(0, np.float32)
        with report.measure("flow"):
            state = stages.flow.init_state(self._request.prompt.flow)
            mel, _ = stages.flow.step(TokenChunk(spoken, finalize=True, chunk_masks=False), state)
        mel = stretch(mel, self._request.speed)
        with report.measure("vocoder"):
            samples, _ = stages.vocoder.step(MelChunk(mel, finalize=True), stages.vocoder.init_state())
        return samples

    def _streamed(self, number: int, piece: PieceReport) -> Iterator[FloatArray]:
        """The samples of a piece chunk by chunk.

        A faulty attempt is replaced as long as nothing of it was given out; later the piece ends at the
        fault.
        """
        for attempt in range(self._request.guard.retries + 1):
            piece.retries = attempt
            last_attempt = attempt == self._request.guard.retries
            stream = _PieceStream(self._model, self._request, self.report)
            ids, watch = self._watched(piece.text)
            piece.tokens = 0
            generated = self._generate(ids, number, attempt, watch.limit)
            with closing(RunAhead(generated) if self._model.stages.concurrent else generated) as tokens:
                for token in self._model.spoken(_observed(tokens, watch, piece)):
                    yield from stream.push(token)
            fault = piece.faults[attempt] if len(piece.faults) > attempt else watch.finish()
            if fault is not None and len(piece.faults) == attempt:
                piece.faults.append(fault)
            if fault is not None and not stream.begun and not last_attempt:
                continue
            piece.cut = fault is not None and stream.begun
            yield from stream.finish()
            return

    def _watched(self, text: str) -> tuple[list[int], TokenWatch]:
        """Text tokens of a piece, and a watch over what will be said to them."""
        guard, prompt, frontend = self._request.guard, self._request.prompt, self._model.stages.text
        with self.report.measure("text"):
            ids = frontend.encode(text)
            phones = frontend.count_phones(text)
        return ids, guard.watch(phones, prompt.seconds_per_phone, self._model.token_rate)

    def _generate(self, ids: list[int], number: int, attempt: int, limit: int) -> Generator[int, None, None]:
        """Speech tokens of one attempt; the time that each takes is counted."""
        generator = piece_generator(self._request.seed, number, attempt)
        sampler = RASSampler(self._model.config.llm.sampling, numpy_multinomial(generator))
        with closing(self._model.generate(ids, self._request.prompt, sampler, limit)) as tokens:
            while True:
                with self.report.measure("llm"):
                    token = next(tokens, None)
                if token is None:
                    return
                yield token


def _observed(tokens: Iterator[int], watch: TokenWatch, piece: PieceReport) -> Iterator[int]:
    """`tokens` up to the first fault, which is noted in `piece`."""
    for token in tokens:
        piece.tokens += 1
        fault = watch.push(token)
        if fault is not None:
            piece.faults.append(fault)
            return
        yield token


class _PieceStream:
    """Tokens in, samples out, for one attempt at one piece."""

    def __init__(self, model: CosyVoice2Model, request: Request, report: Report) -> None:
        config = request.streaming or StreamingConfig()
        self._stages, self._report = model.stages, report
        prompt_tokens = len(request.prompt.flow.prompt_token)
        self._schedule = ChunkSchedule(config, prompt_tokens, model.lookahead, model.attention_chunk)
        self._masks_at_end = config.mode == "consistent"
        self._stretcher = MelStretcher(request.speed)
        self._flow_state = model.stages.flow.init_state(request.prompt.flow)
        self._vocoder_state = model.stages.vocoder.init_state()
        self._pending: list[int] = []
        self._received = 0
        self.begun = False
        """Whether samples have been given out."""

    def push(self, token: int) -> Iterator[FloatArray]:
        """The samples of the next chunk, once `token` completes it."""
        self._pending.append(token)
        self._received += 1
        if self._received >= self._schedule.needed:
            self._schedule.advance()
            yield from self._chunk(finalize=False, chunk_masks=True)

    def finish(self) -> Iterator[FloatArray]:
        """The rest of the piece."""
        if self._received:
            yield from self._chunk(finalize=True, chunk_masks=self._masks_at_end)

    def _chunk(self, finalize: bool, chunk_masks: bool) -> Iterator[FloatArray]:
        tokens, self._pending = self._pending, []
        with self._report.measure("flow"):
            chunk = TokenChunk(tokens, finalize, chunk_masks)
            mel, self._flow_state = self._stages.flow.step(chunk, self._flow_state)
        mel = self._stretcher.push(mel, finalize)
        with self._report.measure("vocoder"):
            samples, self._vocoder_state = self._stages.vocoder.step(MelChunk(mel, finalize), self._vocoder_state)
        if len(samples):
            self.begun = True
            yield samples
