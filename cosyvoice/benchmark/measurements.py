"""One function for each thing that is measured: it does the work once and returns seconds by part."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from cosyvoice.benchmark.harness import CLOCK, Clock
from cosyvoice.benchmark.workload import TEXT, UNGUARDED, Workload
from cosyvoice.engine.decoding import DecodingRules, decode
from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.stages import FloatArray, LLMStage, MelChunk, TokenChunk

DECODED_TOKENS = 40
"""Tokens that are decoded to find the speed of decoding."""

Parts = dict[str, float]


def measure_llm(tts: TTS, work: Workload, clock: Clock = CLOCK) -> Parts:
    """The prompt up to the first scores, and then `DECODED_TOKENS` steps."""
    stage = tts.model.stages.llm
    state = stage.init_state(work.llm_input())
    try:
        start = clock()
        _, state = stage.step(None, state)
        middle = clock()
        for token in work.script(DECODED_TOKENS):
            _, state = stage.step(token, state)
        return {"llm_prefill": middle - start, "llm_decode": clock() - middle}
    finally:
        stage.release(state)


def measure_flow(tts: TTS, work: Workload, clock: Clock = CLOCK) -> Parts:
    """The mel of a whole utterance behind its prompt."""
    stage = tts.model.stages.flow
    state = stage.init_state(work.flow_input())
    chunk = TokenChunk(work.script(work.tokens), finalize=True, chunk_masks=False)
    start = clock()
    stage.step(chunk, state)
    return {"flow": clock() - start}


def measure_vocoder(tts: TTS, work: Workload, clock: Clock = CLOCK) -> Parts:
    """The samples of a whole utterance."""
    stage = tts.model.stages.vocoder
    chunk = MelChunk(work.mel(), finalize=True)
    start = clock()
    stage.step(chunk, stage.init_state())
    return {"vocoder": clock() - start}


def measure_whole(tts: TTS, work: Workload, clock: Clock = CLOCK) -> Parts:
    """An utterance through the pipeline: once as a whole, once as a stream up to its first chunk.

    The stream has the first voice that the model brings, if any: the tokens that the first chunk waits for depend
    on the length of the prompt.
    """
    speaker, presets = work.scripted(tts), tts.store.preset_names()
    start = clock()
    speaker.say(TEXT, work.voice, seed=0, guard=UNGUARDED)
    whole = clock() - start
    voice = tts.store.get(presets[0]) if presets else work.voice
    start = clock()
    stream = speaker.stream(TEXT, voice, seed=0, guard=UNGUARDED)
    try:
        next(stream)
        return {"whole": whole, "first_audio": clock() - start}
    finally:
        stream.close()


def measure_stream(
    tts: TTS, work: Workload, clock: Clock = CLOCK, after_chunk: Callable[[], None] | None = None
) -> Parts:
    """Flow and vocoder over an utterance in chunks of one length (usually a second); each chunk is a part.

    The very last chunk, which also gives what was held back as look-ahead, is of another size and not measured.
    """
    stages, model = tts.model.stages, tts.model
    flow_input, usual = work.flow_input(), model.default_streaming
    config = replace(usual, growth=1, max_hop=usual.hop, first=usual.hop)
    schedule = model.schedule(config, len(flow_input.prompt_token))
    flow, vocoder = stages.flow.init_state(flow_input), stages.vocoder.init_state()
    script, said = work.script(work.tokens), 0
    parts: Parts = {}
    while schedule.needed <= len(script):
        needed = schedule.needed
        start = clock()
        mel, flow = stages.flow.step(TokenChunk(script[said:needed], finalize=False, chunk_masks=True), flow)
        _, vocoder = stages.vocoder.step(MelChunk(mel, finalize=False), vocoder)
        parts[f"chunk_{len(parts) + 1}"] = clock() - start
        said = needed
        schedule.advance()
        if after_chunk is not None:
            after_chunk()
    return parts


def measure_concurrency(tts: TTS, work: Workload, requests: int, tokens: int, clock: Clock = CLOCK) -> Parts:
    """`tokens` steps of the language model for each of `requests`: one request at a time, and all together.

    Both ways go through the loop that decodes every request, with a sampler that says a script. Reading the prompts is
    not measured. `difference` is no time: it is the greatest difference of the last log-probabilities between the
    two ways.
    """
    stage, alone, scores = tts.model.stages.llm, 0.0, []
    for number in range(requests):
        decoder = _Decoder(stage, work, number, tokens)
        decoder.read()
        start = clock()
        scores.append(decoder.decode())
        alone += clock() - start
    together, same = _together([_Decoder(stage, work, number, tokens) for number in range(requests)], clock)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(scores, same, strict=True))
    return {"one_at_a_time": alone, "together": together, "difference": difference}


def _together(decoders: list[_Decoder], clock: Clock) -> tuple[float, list[FloatArray]]:
    """Seconds from when all prompts were read to the last token of all, and the last scores of each."""
    ready = threading.Barrier(len(decoders) + 1)

    def work(decoder: _Decoder) -> FloatArray:
        try:
            decoder.read()
        except BaseException:
            ready.abort()
            raise
        ready.wait()
        return decoder.decode()

    with ThreadPoolExecutor(len(decoders)) as pool:
        running = [pool.submit(work, decoder) for decoder in decoders]
        try:
            ready.wait()
        except threading.BrokenBarrierError:
            failures = [future.exception() for future in running]
            raise next(f for f in failures if f and not isinstance(f, threading.BrokenBarrierError)) from None
        start = clock()
        scores = [future.result() for future in running]
        return clock() - start, scores


class _Decoder:
    """One request to the language model."""

    def __init__(self, stage: LLMStage, work: Workload, number: int, tokens: int) -> None:
        self._script = iter(work.script(number + tokens + 1)[number:])
        self._scores = np.zeros(0, np.float32)
        rules = DecodingRules(stop_ids=(), blocked_before_minimum=(), minimum=0, maximum=tokens + 1)
        self._tokens = decode(stage, work.llm_input(number), self._choose, rules)

    def read(self) -> None:
        """Everything up to the first scores."""
        next(self._tokens)

    def decode(self) -> FloatArray:
        """Say the script; the scores that its last token was chosen from."""
        for _ in self._tokens:
            pass
        return self._scores

    def _choose(self, scores: FloatArray, history: Sequence[int]) -> int:
        self._scores = scores
        return next(self._script)
