"""One request: the pieces of a text, spoken one after the other, whole or in chunks.

A session owns all that changes while it speaks; the model and its stages stay as they are, so any number of
sessions can run beside each other, and one that is abandoned leaves nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from cosyvoice.engine.decoding import piece_generator
from cosyvoice.engine.guard import Fault, Guard, TokenWatch, distance
from cosyvoice.engine.joining import Joining, PieceEdges, silence
from cosyvoice.engine.models import CosyVoiceModel, Prompt
from cosyvoice.engine.overlap import RunAhead
from cosyvoice.engine.sampling import Sampling, numpy_multinomial
from cosyvoice.engine.speech import Chunk, PieceReport, Report
from cosyvoice.engine.stages import FloatArray, MelChunk, TokenChunk
from cosyvoice.engine.streaming import StreamingConfig
from cosyvoice.engine.tempo import MelStretcher, stretch
from cosyvoice.errors import GenerationError, TextError
from cosyvoice.text.incremental import whole_words

Progress = Callable[[int, int], None]
"""Called with the number of pieces spoken and the number of all pieces."""


@dataclass(frozen=True)
class ArrivingText:
    """A piece whose text is still being written: parts of any length, each waited for when it is needed."""

    parts: Iterator[str]


@dataclass(frozen=True)
class RecordedTokens:
    """A piece that somebody has spoken already: speech tokens, which are given another voice."""

    tokens: Sequence[int]


Piece = str | ArrivingText | RecordedTokens


@dataclass(frozen=True)
class Request:
    """What is asked of a session."""

    pieces: Iterable[Piece]
    """In order; an iterator is asked for the next one when the last one has been spoken."""
    prompt: Prompt
    seed: int
    speed: float = 1.0
    streaming: StreamingConfig | None = None
    """None: each piece is computed whole, with full attention."""
    guard: Guard = field(default_factory=Guard)
    joining: Joining = field(default_factory=Joining)
    progress: Progress | None = None
    sampling: Sampling = field(default_factory=Sampling)


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

    def __init__(self, model: CosyVoiceModel, request: Request, report: Report) -> None:
        self._model = model
        self._request = request
        self.report = report

    def run(self) -> Generator[Chunk, None, None]:
        """Yield the speech as chunks, without streaming one or two a piece."""
        report = self.report
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
        if not report.pieces:
            raise TextError("no text arrived; give at least one word")
        if report.samples == 0:
            said = " ".join(piece.text for piece in report.pieces)[:40]
            raise GenerationError(f"the model said nothing to {said!r}; try another seed or another voice")

    def _joined(self) -> Iterator[tuple[FloatArray, int]]:
        """Non-empty stretches of samples with the number of their piece, pauses included."""
        request, rate = self._request, self.report.sample_rate
        pause = silence(0.0, rate)
        for number, source in enumerate(request.pieces):
            piece = PieceReport(source if isinstance(source, str) else "")
            self.report.pieces.append(piece)
            speak = self._whole if request.streaming is None else self._streamed
            edges = PieceEdges(request.joining, rate)
            for samples in speak(source, number, piece):
                ready = edges.push(samples)
                if len(ready):
                    yield np.concatenate([pause, ready]), number
                    pause = silence(0.0, rate)
            rest = np.concatenate([pause, edges.finish()])
            pause = silence(request.joining.pause_after(piece.text) if piece.text else 0.0, rate)
            if request.progress is not None:
                known = len(request.pieces) if isinstance(request.pieces, Sized) else number + 1
                request.progress(number + 1, known)
            if len(rest):
                yield rest, number

    def _whole(self, source: Piece, number: int, piece: PieceReport) -> Iterator[FloatArray]:
        """The samples of a piece from one call of flow and vocoder; the best attempt if all have faults."""
        best: tuple[float, list[int]] | None = None
        for attempt in range(self._retries(source) + 1):
            piece.retries = attempt
            tokens, watch, fault = self._tokens(source, number, attempt, piece)
            if fault is None and isinstance(source, str):
                fault = self._omission(source, tokens)
            if fault is None:
                samples = self._render(source, tokens)
                fault = self._request.guard.audio_fault(samples, self.report.sample_rate) if watch else None
                if fault is None:
                    piece.tokens = len(tokens)
                    yield samples
                    return
            piece.faults.append(fault)
            score = distance(tokens, watch.expected) if watch else 0.0
            if best is None or score < best[0]:
                best = score, tokens
        if best is not None:
            piece.tokens = len(best[1])
            yield self._render(source, best[1])

    def _tokens(
        self, source: Piece, number: int, attempt: int, piece: PieceReport
    ) -> tuple[list[int], TokenWatch | None, Fault | None]:
        """All tokens of one attempt, up to its first fault."""
        generated, watch = self._begin(source, number, attempt, piece)
        tokens: list[int] = []
        with closing(generated):
            for token in generated:
                tokens.append(token)
                fault = watch.push(token) if watch else None
                if fault is not None:
                    return tokens, watch, fault
        return tokens, watch, watch.finish() if watch else None

    def _omission(self, text: str, tokens: list[int]) -> Fault | None:
        """Whether `tokens` leave out words of `text`, where this model can hear that."""
        recogniser = self._model.stages.recogniser
        if recogniser is None or not tokens:
            return None
        with self.report.measure("text"):
            words = recogniser.words(text)
            return self._request.guard.omission(words, recogniser.scores(tokens, words))

    def _render(self, source: Piece, tokens: list[int]) -> FloatArray:
        stages, report = self._model.stages, self.report
        spoken = list(self._spoken(source, iter(tokens)))
        if not spoken:
            return np.zeros(0, np.float32)
        with report.measure("flow"):
            state = stages.flow.init_state(self._request.prompt.flow)
            mel, _ = stages.flow.step(TokenChunk(spoken, finalize=True, chunk_masks=False), state)
        mel = stretch(mel, self._request.speed)
        with report.measure("vocoder"):
            samples, _ = stages.vocoder.step(MelChunk(mel, finalize=True), stages.vocoder.init_state())
        return samples

    def _streamed(self, source: Piece, number: int, piece: PieceReport) -> Iterator[FloatArray]:
        """The samples of a piece chunk by chunk.

        A faulty attempt is replaced as long as nothing of it was given out; later the piece ends at the
        fault.
        """
        retries = self._retries(source)
        for attempt in range(retries + 1):
            piece.retries = attempt
            stream = _PieceStream(self._model, self._request, self.report)
            generated, watch = self._begin(source, number, attempt, piece)
            piece.tokens = 0
            with closing(RunAhead(generated) if self._model.stages.concurrent else generated) as tokens:
                for token in self._spoken(source, _observed(tokens, watch, piece)):
                    yield from stream.push(token)
            fault = piece.faults[attempt] if len(piece.faults) > attempt else watch.finish() if watch else None
            if fault is not None and len(piece.faults) == attempt:
                piece.faults.append(fault)
            if fault is not None and not stream.begun and attempt < retries:
                continue
            piece.cut = fault is not None and stream.begun
            yield from stream.finish()
            return

    def _spoken(self, source: Piece, tokens: Iterator[int]) -> Iterator[int]:
        """Those of the tokens that are handed to the flow; all of what somebody has spoken, with its pauses."""
        return tokens if isinstance(source, RecordedTokens) else self._model.spoken(tokens)

    def _retries(self, source: Piece) -> int:
        """Only text that lies there in full can be spoken again."""
        return self._request.guard.retries if isinstance(source, str) else 0

    def _begin(
        self, source: Piece, number: int, attempt: int, piece: PieceReport
    ) -> tuple[Generator[int, None, None], TokenWatch | None]:
        """Speech tokens of one attempt, and a watch over them where their number can be expected."""
        request, model = self._request, self._model
        if isinstance(source, RecordedTokens):
            return (token for token in source.tokens), None
        generator = piece_generator(request.seed, number, attempt)
        sampler = request.sampling.sampler(model.config.llm.sampling, numpy_multinomial(generator))
        if isinstance(source, ArrivingText):
            arriving = self._arriving(source.parts, piece)
            return self._measured(model.generate_arriving(arriving, request.prompt, sampler)), None
        ids, watch = self._watched(source)
        return self._measured(model.generate(ids, request.prompt, sampler, watch.limit)), watch

    def _arriving(self, parts: Iterator[str], piece: PieceReport) -> Iterator[list[int]]:
        """Text tokens of whole words, as soon as they are there."""
        for text in whole_words(parts):
            piece.text += text
            yield self._model.stages.text.encode(text)

    def _watched(self, text: str) -> tuple[list[int], TokenWatch]:
        """Text tokens of a piece, and a watch over what will be said to them."""
        guard, prompt, frontend = self._request.guard, self._request.prompt, self._model.stages.text
        with self.report.measure("text"):
            ids = [*prompt.opening, *frontend.encode(text)]
            phones = frontend.count_phones(text)
        return ids, guard.watch(phones, prompt.seconds_per_phone, self._model.token_rate)

    def _measured(self, tokens: Generator[int, None, None]) -> Generator[int, None, None]:
        """`tokens`; the time that each takes is counted."""
        with closing(tokens):
            while True:
                with self.report.measure("llm"):
                    token = next(tokens, None)
                if token is None:
                    return
                yield token


def _observed(tokens: Iterator[int], watch: TokenWatch | None, piece: PieceReport) -> Iterator[int]:
    """`tokens` up to the first fault, which is noted in `piece`."""
    for token in tokens:
        piece.tokens += 1
        fault = watch.push(token) if watch else None
        if fault is not None:
            piece.faults.append(fault)
            return
        yield token


class _PieceStream:
    """Tokens in, samples out, for one attempt at one piece."""

    def __init__(self, model: CosyVoiceModel, request: Request, report: Report) -> None:
        config = request.streaming or model.default_streaming
        self._stages, self._report = model.stages, report
        reference = model.streamed_reference(config, request.prompt.flow)
        self._schedule = model.schedule(config, len(reference.prompt_token))
        self._masks_at_end = config.mode == "consistent"
        self._stretcher = MelStretcher(request.speed)
        self._flow_state = model.stages.flow.init_state(reference)
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
