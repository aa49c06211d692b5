from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cosyvoice.engine.guard import Fault, Guard
from cosyvoice.engine.joining import Joining
from cosyvoice.engine.models import Prompt
from cosyvoice.engine.session import Request, Session, SpeechStream
from cosyvoice.engine.speech import Report
from cosyvoice.engine.stages import FlowInput
from cosyvoice.engine.streaming import StreamingConfig
from cosyvoice.errors import GenerationError

RANDOM = np.random.default_rng(3)
GOOD = RANDOM.integers(100, 900, 60).tolist()
OTHER = RANDOM.integers(100, 900, 55).tolist()
SHORT = [200, 300]
LOOP = GOOD[:40] + [500, 501] * 60
LONG = RANDOM.integers(100, 900, 600).tolist()
# No fades and no trimming, so that samples tell the tokens they come from.
PLAIN = Joining(head=99, tail=99, fade=0)
WORDS = "one two three four five six"
STREAM = StreamingConfig()


def session(
    fake: Any,
    text: str = WORDS,
    streaming: StreamingConfig | None = None,
    guard: Guard | None = None,
    prompt_tokens: int = 10,
    speed: float = 1.0,
    joining: Joining = PLAIN,
) -> Session:
    flow = FlowInput(
        np.zeros(prompt_tokens, np.int32), np.zeros((2 * prompt_tokens, 80), np.float32), np.ones(192, np.float32)
    )
    prompt = Prompt((), (), flow)
    request = Request(text.split("\n"), prompt, 1, speed, streaming, guard or Guard(), joining)
    return Session(fake.model, request, Report(1, 24000))


def spoken(session: Session) -> np.ndarray:
    return np.concatenate([chunk.samples for chunk in session.run()])


def samples_of(tokens: list[int]) -> np.ndarray:
    return np.repeat(np.array(tokens, np.float32) / 1000, 960)


@pytest.mark.parametrize("streaming", [None, STREAM])
def test_every_token_is_heard_once(make_fake: Any, streaming: StreamingConfig | None) -> None:
    np.testing.assert_array_equal(spoken(session(make_fake(GOOD), streaming=streaming)), samples_of(GOOD))


def test_chunk_sizes_do_not_show(make_fake: Any) -> None:
    long = RANDOM.integers(100, 900, 290).tolist()
    text = " ".join(["word"] * 34)
    for hop, growth, highest in ((25, 2, 100), (25, 1, 25), (100, 1, 100)):
        for prompt in (0, 10, 49):
            fake = make_fake(long)
            config = StreamingConfig(hop, growth, highest)
            heard = spoken(session(fake, text, config, prompt_tokens=prompt))
            np.testing.assert_array_equal(heard, samples_of(long))
            assert all(call.chunk_masks for call in fake.flow.calls)
            ends = np.cumsum([len(call.tokens) for call in fake.flow.calls[:-1]])
            assert all((end - 3 + prompt) % 25 == 0 for end in ends)


def test_offsets_say_where_a_chunk_belongs(make_fake: Any) -> None:
    running = session(make_fake(GOOD, OTHER), f"{WORDS}\n{WORDS}", STREAM)
    chunks = list(running.run())
    assert [chunk.offset for chunk in chunks] == np.cumsum([0, *(len(c.samples) for c in chunks[:-1])]).tolist()
    assert {chunk.piece for chunk in chunks} == {0, 1}
    assert running.report.samples == sum(len(chunk.samples) for chunk in chunks)
    assert all(len(chunk.samples) for chunk in chunks)


def test_only_the_last_call_of_the_released_mode_sees_all(make_fake: Any) -> None:
    fake = make_fake(GOOD)
    spoken(session(fake, streaming=StreamingConfig(mode="released")))
    assert [(call.finalize, call.chunk_masks) for call in fake.flow.calls] == [(False, True), (True, False)]


def test_a_whole_piece_is_one_call_with_full_attention(make_fake: Any) -> None:
    fake = make_fake(GOOD)
    spoken(session(fake))
    assert [(len(call.tokens), call.finalize, call.chunk_masks) for call in fake.flow.calls] == [(60, True, False)]
    assert len(fake.vocoder.calls) == 1


@pytest.mark.parametrize("streaming", [None, STREAM])
@pytest.mark.parametrize(("bad", "fault"), [(SHORT, Fault.STARVATION), ([], Fault.STARVATION)])
def test_a_bad_attempt_is_replaced(
    make_fake: Any, streaming: StreamingConfig | None, bad: list[int], fault: Fault
) -> None:
    fake = make_fake(bad, bad, GOOD)
    running = session(fake, streaming=streaming)
    np.testing.assert_array_equal(spoken(running), samples_of(GOOD))
    piece = running.report.pieces[0]
    assert (piece.retries, piece.faults, piece.tokens, piece.cut) == (2, [fault, fault], 60, False)
    assert (running.report.retries, running.report.doubtful) == (2, [])
    assert fake.llm.released == 3


@pytest.mark.parametrize(("bad", "fault"), [(LOOP, Fault.REPETITION), (LONG, Fault.RUNAWAY)])
def test_faults_are_found_while_tokens_arrive(make_fake: Any, bad: list[int], fault: Fault) -> None:
    fake = make_fake(bad, GOOD)
    running = session(fake)
    np.testing.assert_array_equal(spoken(running), samples_of(GOOD))
    assert running.report.pieces[0].faults == [fault]
    assert fake.llm.steps < 61 + 130


def test_an_attempt_that_leaves_out_words_is_replaced_before_it_becomes_sound(make_fake: Any) -> None:
    class Recogniser:
        """Hears the words in `GOOD` only."""

        def words(self, text: str) -> list[tuple[str, ...]]:
            return [("W", "ER1", "D", "Z")] * len(text.split())

        def scores(self, tokens: Sequence[int], words: Sequence[Sequence[str]]) -> list[float]:
            return [0.9 if list(tokens) == GOOD else 0.0] * len(words)

    fake = make_fake(GOOD[:55], GOOD)
    fake.model.stages = replace(fake.model.stages, recogniser=Recogniser())
    running = session(fake)
    np.testing.assert_array_equal(spoken(running), samples_of(GOOD))
    assert running.report.pieces[0].faults == [Fault.OMISSION]
    assert len(fake.vocoder.calls) == 1


def test_long_silence_in_the_sound_is_a_fault(make_fake: Any) -> None:
    quiet = RANDOM.integers(1, 40, 45).tolist()
    guard = Guard(silence_level=0.05)
    running = session(make_fake(GOOD[:20] + quiet + GOOD[20:40], GOOD), guard=guard)
    np.testing.assert_array_equal(spoken(running), samples_of(GOOD))
    assert running.report.pieces[0].faults == [Fault.SILENCE]


def test_without_a_good_attempt_the_best_one_is_used_and_reported(make_fake: Any) -> None:
    running = session(make_fake(SHORT, GOOD[:15], [], [7]), guard=Guard(retries=3))
    np.testing.assert_array_equal(spoken(running), samples_of(GOOD[:15]))
    piece = running.report.pieces[0]
    assert (piece.retries, len(piece.faults), piece.tokens) == (3, 4, 15)
    assert running.report.doubtful == [piece]


def test_what_was_given_out_is_not_taken_back(make_fake: Any) -> None:
    fake = make_fake(LOOP, GOOD)
    running = session(fake, streaming=STREAM)
    heard = spoken(running)
    piece = running.report.pieces[0]
    assert (piece.retries, piece.faults, piece.cut) == (0, [Fault.REPETITION], True)
    np.testing.assert_array_equal(heard, samples_of(LOOP)[: len(heard)])
    assert len(heard) < len(samples_of(LOOP))


def test_retries_can_be_turned_off(make_fake: Any) -> None:
    fake = make_fake(SHORT, GOOD)
    spoken(session(fake, guard=Guard(retries=0)))
    assert len(fake.llm.inputs) == 1


def test_nothing_at_all_is_an_error(make_fake: Any) -> None:
    for streaming in (None, STREAM):
        with pytest.raises(GenerationError, match="said nothing"):
            spoken(session(make_fake([]), streaming=streaming))


def test_pieces_are_joined_with_pauses(make_fake: Any) -> None:
    joining = Joining(head=99, tail=99, fade=0, sentence_pause=0.5, clause_pause=0.25)
    heard = spoken(session(make_fake(GOOD, OTHER, GOOD), f"{WORDS}.\n{WORDS},\n{WORDS}.", joining=joining))
    expected = [samples_of(GOOD), np.zeros(12000), samples_of(OTHER), np.zeros(6000), samples_of(GOOD)]
    np.testing.assert_array_equal(heard, np.concatenate(expected).astype(np.float32))


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_speed_changes_the_length_in_a_stream_too(make_fake: Any, speed: float) -> None:
    whole = spoken(session(make_fake(GOOD), speed=speed))
    stream = spoken(session(make_fake(GOOD), streaming=STREAM, speed=speed))
    assert len(whole) == len(stream) == int(120 / speed) * 480


def test_silent_tokens_are_thinned_out_before_the_flow(make_fake: Any) -> None:
    tokens = GOOD[:30] + [950] * 9 + GOOD[30:]
    for streaming in (None, STREAM):
        fake = make_fake(tokens, silent_tokens=(950,), max_silent_run=5)
        heard = spoken(session(fake, streaming=streaming))
        np.testing.assert_array_equal(heard, samples_of(GOOD[:30] + [950] * 5 + GOOD[30:]))


def test_an_abandoned_stream_gives_its_state_back(make_fake: Any) -> None:
    fake = make_fake(GOOD)
    stream = SpeechStream(session(fake, streaming=STREAM))
    next(stream)
    stream.close()
    assert fake.llm.released == 1
    # Run ahead, the language model may have said everything by then.
    assert fake.llm.steps < 60 or fake.model.stages.concurrent
    stream = SpeechStream(session(fake, streaming=STREAM))
    next(stream)
    del stream
    assert fake.llm.released == 2


def test_streams_side_by_side_do_not_touch_each_other(make_fake: Any) -> None:
    fake = make_fake(GOOD, OTHER)
    first, second = (SpeechStream(session(fake, streaming=STREAM)) for _ in range(2))
    heard: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    running = [True, True]
    while any(running):
        for index, stream in enumerate((first, second)):
            chunk = next(stream, None)
            running[index] = chunk is not None
            if chunk is not None:
                heard[index].append(chunk.samples)
    np.testing.assert_array_equal(np.concatenate(heard[0]), samples_of(GOOD))
    np.testing.assert_array_equal(np.concatenate(heard[1]), samples_of(OTHER))


def test_waiting_for_the_caller_is_not_work(make_fake: Any) -> None:
    import time

    running = session(make_fake(GOOD), streaming=STREAM)
    for _ in running.run():
        time.sleep(0.15)
    assert running.report.seconds < 0.15
    assert 0 < running.report.time_to_first_audio < 0.15
    assert set(running.report.stage_seconds) == {"text", "llm", "flow", "vocoder"}


def test_progress_counts_pieces(make_fake: Any) -> None:
    told: list[tuple[int, int]] = []
    running = session(make_fake(GOOD), f"{WORDS}\n{WORDS}")
    object.__setattr__(running._request, "progress", lambda done, pieces: told.append((done, pieces)))
    spoken(running)
    assert told == [(1, 2), (2, 2)]
