"""The language model stage against the reference: prompts, steps, pieces, precisions, and many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.checkpoint.weights import read_weights
from cosyvoice.config.model import LLMConfig, ModelConfig, SamplingConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.sampling import RASSampler, numpy_multinomial
from cosyvoice.engine.stages import LLMInput
from cosyvoice.errors import ConfigError, GenerationError, ModelError, TextError, VoiceError
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.llm_graph import build_llm, quantise_llm
from cosyvoice.llm.bistream import BistreamSession
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM
from cosyvoice.llm.layout import Kind, Row, speech_rows, text_rows
from cosyvoice.llm.qwen2_lm import Qwen2LM
from cosyvoice.native.llm import NativeLLMStage, NativeLLMState, special_tokens
from cosyvoice.native.runtime import Runtime
from cosyvoice.reference.loading import load_strictly

MINI = Path(__file__).parents[2] / "cosyvoice" / "pretrained" / "mini"
SOLO_TOLERANCE = 1e-4


class Pair(NamedTuple):
    """The reference, and directories of the native bundle by precision."""

    reference: Qwen2LM | CosyVoice3LM
    directories: dict[str, Path]
    end_of_prompt_id: int | None

    @property
    def config(self) -> LLMConfig:
        return self.reference.config

    def stage(self, precision: str = "fp32", **settings: int) -> NativeLLMStage:
        directory = self.directories[precision]
        return NativeLLMStage(directory, self.config, self.end_of_prompt_id, Runtime(1), **settings)


def make_pair(config: ModelConfig, weights: dict, root: Path, precisions: tuple[str, ...] = ()) -> Pair:
    assert isinstance(config.llm, LLMConfig)
    kind = Qwen2LM if config.llm.task_embedding else CosyVoice3LM
    reference = kind(config.llm, config.end_of_prompt_id).eval()
    load_strictly(reference, weights, root)
    tensors = {name: tensor.float().numpy() for name, tensor in weights.items()}
    directories = {}
    for precision in ("fp32", *precisions):
        directory = root / precision
        directory.mkdir()
        kept = tensors if precision == "fp32" else quantise_llm(tensors, precision)
        save_file(kept, directory / "llm.safetensors")
        build_llm(TensorFile(directory / "llm.safetensors"), config.llm, directory)
        directories[precision] = directory
    return Pair(reference, directories, config.end_of_prompt_id)


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config = ModelConfig.model_validate_json((MINI / "config.json").read_text())
    # It was not trained to, but it can be asked to speak while text is arriving.
    config = config.model_copy(update={"llm": config.llm.model_copy(update={"bistream": True})})
    weights, _ = read_weights(MINI / "llm.safetensors")
    return make_pair(config, weights, tmp_path_factory.mktemp("mini"), ("int8", "int4", "mixed"))


@pytest.fixture(scope="module")
def released(released_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    weights = dict(load_state_dict(released_model_dir / "llm.pt"))
    return make_pair(read_model_config(released_model_dir), weights, tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def second(released_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A released directory of the second generation, whose special rows have a table of their own."""
    directory = released_model_dir.parents[1] / "v2" / "model"
    weights = dict(load_state_dict(directory / "llm.pt"))
    return make_pair(read_model_config(directory), weights, tmp_path_factory.mktemp("second"))


@pytest.fixture(params=["mini", "released", "second"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return request.getfixturevalue(request.param)


def some_rows(config: LLMConfig, text: int, speech: int, seed: int = 0) -> list[Row]:
    random = np.random.default_rng(seed)
    special = special_tokens(config)
    return [
        Row(Kind.SPECIAL, special.sos),
        *text_rows(random.integers(0, config.qwen.vocab_size, text).tolist()),
        Row(Kind.SPECIAL, special.task),
        *speech_rows(random.integers(0, config.speech_token_size, speech).tolist()),
    ]


def some_input(pair: Pair, text: int, speech: int, seed: int = 0) -> LLMInput:
    rows = some_rows(pair.config, text, speech, seed)
    marks = () if pair.end_of_prompt_id is None else (pair.end_of_prompt_id,)
    return LLMInput([row.id for row in rows[1 : text + 1]], marks, [row.id for row in rows[text + 2 :]])


def assert_same(pair: Pair, stage: NativeLLMStage, pieces: list[list[Row]]) -> None:
    """Feeding `pieces` one after the other gives what the reference gives."""
    cache, state = pair.reference.new_cache(), stage.open()
    for piece in pieces:
        expected = pair.reference.feed(piece, cache)
        np.testing.assert_allclose(stage.feed(piece, state), expected, rtol=0, atol=1e-4)
    stage.release(state)


def test_prompt_and_steps(pair: Pair) -> None:
    """A prompt longer than one run, then steps past the first capacity."""
    steps = [speech_rows([i % pair.config.speech_token_size]) for i in range(20)]
    assert_same(pair, pair.stage(capacity=32), [some_rows(pair.config, 30, 80), *steps])


def test_pieces_amid_the_sequence(pair: Pair) -> None:
    """Streamed text feeds rows behind what is cached."""
    rows = some_rows(pair.config, 40, 50)
    assert_same(pair, pair.stage(), [rows[:1], rows[1:4], rows[4:5], rows[5:60], rows[60:61], rows[61:]])


def test_stage_protocol_against_the_reference(pair: Pair) -> None:
    inputs = some_input(pair, 12, 9)
    rows = pair.reference.prompt_rows(inputs.text, inputs.prompt_text, inputs.prompt_speech_token)
    stage, cache = pair.stage(), pair.reference.new_cache()
    state = stage.init_state(inputs)
    scores, state = stage.step(None, state)
    np.testing.assert_allclose(scores, pair.reference.feed(rows, cache), rtol=0, atol=1e-4)
    token = int(scores[: pair.config.speech_token_size].argmax())
    scores, state = stage.step(token, state)
    np.testing.assert_allclose(scores, pair.reference.feed(speech_rows([token]), cache), rtol=0, atol=1e-4)
    assert np.exp(scores).sum() == pytest.approx(1.0, abs=1e-4)


def speak(stream: BistreamSession, text: list[int]) -> list[int]:
    """What is said to `text` that arrives three tokens at a time."""
    tokens = [token for i in range(0, len(text), 3) for token in stream.push(text[i : i + 3])]
    return [*tokens, *stream.finish()]


def test_arriving_text_is_spoken_as_by_the_reference(pair: Pair) -> None:
    inputs, stage = some_input(pair, 22, 20), pair.stage()
    prompt = LLMInput((), (*inputs.prompt_text, 3, 4, 5, 6, 7, 8), inputs.prompt_speech_token)

    def sampler() -> RASSampler:
        return RASSampler(SamplingConfig(), numpy_multinomial(np.random.default_rng(2)))

    special = pair.reference.special.stop_ids

    def speech_only(choose: RASSampler) -> Callable[[np.ndarray, list[int]], int]:
        """Ids that end a stream, fill among them, are chosen in the reference's place by none."""
        return lambda scores, history: choose(scores[: special.start], history)

    expected = pair.reference.bistream(speech_only(sampler()), prompt.prompt_text, prompt.prompt_speech_token, 80)
    stream = stage.text_stream(prompt, speech_only(sampler()), limit=80)
    assert speak(stream, list(inputs.text)) == speak(expected, list(inputs.text))
    stream.close()
    stream.close()
    assert stage.text_stream(prompt, sampler()) is not stream
    stage._pool.compact()
    assert stage._pool.sequences == []


def test_a_stream_refuses_bad_text_before_it_is_read(pair: Pair) -> None:
    marks = () if pair.end_of_prompt_id is None else (pair.end_of_prompt_id,)
    stage = pair.stage()
    with stage_stream(stage, LLMInput((), marks)) as stream:
        with pytest.raises(TextError, match="outside"):
            stream.push([pair.config.qwen.vocab_size])
        assert list(stream.push([])) is not None
    with pytest.raises(VoiceError):
        stage.text_stream(LLMInput((), marks, [-1]), lambda scores, history: 0)
    assert all(member.released for member in stage._batcher._members)


@contextmanager
def stage_stream(stage: NativeLLMStage, inputs: LLMInput) -> Iterator[BistreamSession]:
    stream = stage.text_stream(inputs, lambda scores, history: 0)
    yield stream
    stream.close()


@pytest.mark.parametrize(("precision", "bound"), [("int8", 2e-3), ("int4", 0.1), ("mixed", 0.1)])
def test_quantisation_changes_the_distribution_little(mini: Pair, precision: str, bound: float) -> None:
    """Kullback-Leibler divergence (nats) from the reference, mean over a continuation that the reference likes."""
    inputs = some_input(mini, 20, 0)
    rows = mini.reference.prompt_rows(inputs.text, inputs.prompt_text, inputs.prompt_speech_token)
    stage, cache = mini.stage(precision), mini.reference.new_cache()
    state, divergences = stage.open(), []
    for _ in range(30):
        expected, found = mini.reference.feed(rows, cache), stage.feed(rows, state)
        divergences.append(float((np.exp(expected) * (expected - found)).sum()))
        rows = speech_rows([int(expected[: mini.config.speech_token_size].argmax())])
    assert 0 < np.mean(divergences) < bound


def decode(stage: NativeLLMStage, inputs: LLMInput, seed: int, count: int) -> tuple[list[int], np.ndarray]:
    """Sampled tokens, and the scores they were sampled from."""
    sampler = RASSampler(SamplingConfig(), numpy_multinomial(np.random.default_rng(seed)))
    state, token = stage.init_state(inputs), None
    tokens: list[int] = []
    kept = []
    for _ in range(count):
        scores, state = stage.step(token, state)
        kept.append(scores)
        token = sampler(scores[: stage.config.speech_token_size], tokens)
        tokens.append(token)
    stage.release(state)
    return tokens, np.stack(kept)


def test_eight_at_once_equal_each_alone(mini: Pair) -> None:
    """Prompts and lengths all differ, so requests join and leave at different steps; the buffers grow twice."""
    jobs = [(some_input(mini, 5 + 9 * i, 3 * i, seed=i), i, 8 + 3 * i) for i in range(8)]
    alone = mini.stage()
    solo = [decode(alone, *job) for job in jobs]
    stage = mini.stage(slots=2, capacity=64)
    start = threading.Barrier(8)

    def together(job: tuple[LLMInput, int, int]) -> tuple[list[int], np.ndarray]:
        start.wait()
        return decode(stage, *job)

    with ThreadPoolExecutor(8) as pool:
        for (tokens, scores), (expected, expected_scores) in zip(pool.map(together, jobs), solo, strict=True):
            assert tokens == expected
            np.testing.assert_allclose(scores, expected_scores, rtol=0, atol=SOLO_TOLERANCE)


def interleave(stage: NativeLLMStage, states: list[NativeLLMState], steps: int) -> list[np.ndarray]:
    return [stage.step(i, state)[0] for i in range(steps) for state in states][-len(states) :]


def test_cancelling_one_moves_nothing_of_the_others(released: Pair) -> None:
    """The middle ones of five end; the places close, a new request takes one, and all go on as if alone."""
    stage = released.stage()
    inputs = [some_input(released, 6 + i, 2 * i, seed=i) for i in range(6)]
    states = [stage.init_state(one) for one in inputs[:5]]
    for state in states:
        stage.step(None, state)
    interleave(stage, states, 3)
    stage.release(states[1])
    stage.release(states[2])
    late = stage.init_state(inputs[5])
    stage.step(None, late)
    assert len(stage._pool.sequences) == 4  # the freed places were used at the next step
    kept = [states[0], states[3], states[4], late]
    found = interleave(stage, kept, 3)
    for scores, one, fed in zip(found, (inputs[0], inputs[3], inputs[4], inputs[5]), (6, 6, 6, 3), strict=True):
        cache = released.reference.new_cache()
        released.reference.feed(
            released.reference.prompt_rows(one.text, one.prompt_text, one.prompt_speech_token), cache
        )
        for i in [*range(3), *range(3)][6 - fed :]:
            expected = released.reference.feed(speech_rows([i]), cache)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)


def test_cancellation_while_others_decode(mini: Pair) -> None:
    stage = mini.stage()
    inputs = [some_input(mini, 10 + i, 0, seed=i) for i in range(4)]
    alone = mini.stage()
    expected = [decode(alone, one, 0, 15) for one in inputs[:3]]
    doomed = stage.init_state(inputs[3])

    def until_cancelled() -> None:
        token = None
        while True:
            stage.step(token, doomed)
            token = 1

    with ThreadPoolExecutor(4) as pool:
        victim = pool.submit(until_cancelled)
        others = [pool.submit(decode, stage, one, 0, 15) for one in inputs[:3]]
        stage.release(doomed)
        with pytest.raises(GenerationError, match="released"):
            victim.result(timeout=30)
        for future, (tokens, _) in zip(others, expected, strict=True):
            assert future.result(timeout=30)[0] == tokens


def test_one_that_fails_leaves_the_others_unharmed(released: Pair) -> None:
    """A NaN row breaks its own request only."""
    stage = released.stage()
    good, bad = stage.init_state(some_input(released, 6, 3)), stage.init_state(some_input(released, 7, 3))
    stage.step(None, good)
    stage.step(None, bad)
    embed = stage.embed
    stage.embed = lambda rows, speaker=None: embed(rows) * (np.nan if rows[0].id == 9 else 1)  # type: ignore[assignment]
    with pytest.raises(GenerationError, match="higher precision"):
        stage.step(9, bad)
    scores, _ = stage.step(2, good)
    fresh = released.stage()
    state = fresh.init_state(some_input(released, 6, 3))
    fresh.step(None, state)
    np.testing.assert_allclose(scores, fresh.step(2, state)[0], rtol=0, atol=1e-5)


def test_limits(released: Pair) -> None:
    stage = released.stage(slots=1, max_slots=2, capacity=8, max_capacity=16)
    states = [stage.open(some_rows(released.config, 4, 8)) for _ in range(3)]
    stage.step(None, states[0])
    with pytest.raises(GenerationError, match=r"longer than the 16.*shorter pieces"):
        for i in range(3):
            stage.step(i, states[0])
    stage.step(None, states[1])  # beside a full sequence
    with pytest.raises(GenerationError, match="2 requests are running already"):
        stage.step(None, states[2])
    stage.release(states[0])
    third = stage.open(some_rows(released.config, 4, 8))
    stage.step(None, third)


def test_a_released_state_is_refused(released: Pair) -> None:
    stage = released.stage()
    state = stage.init_state(some_input(released, 6, 3))
    stage.step(None, state)
    stage.release(state)
    stage.release(state)  # twice does no harm
    with pytest.raises(GenerationError, match="begin a new one"):
        stage.step(1, state)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda i, c: LLMInput([], i.prompt_text), TextError),
        (lambda i, c: LLMInput([c.qwen.vocab_size], i.prompt_text), TextError),
        (lambda i, c: LLMInput(i.text, ()), TextError),
        (lambda i, c: LLMInput(i.text, i.prompt_text, [c.speech_token_size]), VoiceError),
        (lambda i, c: LLMInput(i.text, i.prompt_text, [-1]), VoiceError),
    ],
    ids=["empty", "unknown text", "no mark", "unknown speech", "negative speech"],
)
def test_bad_input_is_refused_as_by_the_reference(
    released: Pair, change: Callable[[LLMInput, LLMConfig], LLMInput], error: type[Exception]
) -> None:
    inputs = change(some_input(released, 6, 3), released.config)
    with pytest.raises(error) as expected:
        released.reference.prompt_rows(inputs.text, inputs.prompt_text, inputs.prompt_speech_token)
    with pytest.raises(error) as found:
        released.stage().init_state(inputs)
    assert str(found.value) == str(expected.value)


def test_rows_without_an_embedding(released: Pair) -> None:
    stage = released.stage()
    with pytest.raises(TextError, match="outside"):
        stage.feed(text_rows([released.config.qwen.vocab_size]), stage.open())
    with pytest.raises(VoiceError, match="outside"):
        stage.feed(speech_rows([-1]), stage.open())
    with pytest.raises(GenerationError, match="at least one row"):
        stage.feed([], stage.open())


def test_bad_files(released: Pair, tmp_path: Path) -> None:
    def load(config: LLMConfig = released.config) -> NativeLLMStage:
        return NativeLLMStage(tmp_path, config, None, Runtime(1))

    with pytest.raises(ModelError, match="no intact safetensors file"):
        load()
    good = (released.directories["fp32"] / "llm.safetensors").read_bytes()
    (tmp_path / "llm.safetensors").write_bytes(good)
    with pytest.raises(ModelError, match=r"llm\.onnx is missing"):
        load()
    wider = released.config.model_copy(update={"speech_token_size": released.config.speech_token_size + 1})
    with pytest.raises(ModelError, match="has the shape"):
        load(wider)
    (tmp_path / "llm.safetensors").write_bytes(good[:100])
    with pytest.raises(ModelError, match="no intact safetensors file"):
        load()


def test_bad_settings(released: Pair) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        released.stage(slots=0)
    with pytest.raises(ConfigError, match="at most its limit"):
        released.stage(capacity=64, max_capacity=32)
    with pytest.raises(ConfigError, match="need 4 rows"):
        special_tokens(released.config.model_copy(update={"speech_extra_tokens": 3}))
