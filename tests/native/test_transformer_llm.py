"""The first generation's language model on the native engine, against the reference."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cosyvoice.config.model import EncoderConfig, TransformerLMConfig
from cosyvoice.engine.stages import LLMInput
from cosyvoice.errors import ConfigError, GenerationError, ModelError, TextError, VoiceError
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.llm_graph import build_llm, quantise_llm
from cosyvoice.llm.layout import Kind, Row
from cosyvoice.llm.transformer_lm import TransformerLM
from cosyvoice.native.llm import NativeLLMStage
from cosyvoice.native.runtime import Runtime
from cosyvoice.native.transformer_llm import sinusoids
from cosyvoice.reference.stages import TorchLLMStage
from cosyvoice.transformer import positions

SMALL = {"attention_heads": 2, "linear_units": 48, "num_blocks": 2, "static_chunk_size": 1}
CONFIG = TransformerLMConfig(
    text_token_size=50,
    speech_token_size=40,
    speaker_embedding_dim=6,
    text_encoder=EncoderConfig(input_size=12, output_size=24, **SMALL),
    llm=EncoderConfig(layer="transformer", input_layer="linear_legacy", input_size=32, output_size=32, **SMALL),
)


class Pair(NamedTuple):
    """The reference, and directories of the native graphs by precision."""

    reference: TorchLLMStage
    directories: dict[str, Path]

    def stage(self, precision: str = "fp32", **settings: int) -> NativeLLMStage:
        return NativeLLMStage(self.directories[precision], CONFIG, None, Runtime(1), **settings)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    generator = torch.Generator().manual_seed(0)
    model = TransformerLM(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    directories = {}
    for precision in ("fp32", "int8", "int4", "mixed"):
        directory = directories[precision] = tmp_path_factory.mktemp(precision)
        kept = weights if precision == "fp32" else quantise_llm(weights, precision)
        save_file(kept, directory / "llm.safetensors")
        build_llm(TensorFile(directory / "llm.safetensors"), CONFIG, directory)
    return Pair(TorchLLMStage(model), directories)


def some_input(text: int, speech: int, seed: int = 0, speaker: bool = True) -> LLMInput:
    random = np.random.default_rng(seed)
    embedding = random.standard_normal(6).astype(np.float32) if speaker else None
    ids = random.integers(0, 50, text).tolist()
    return LLMInput(ids, [1, 2], random.integers(0, 40, speech).tolist(), embedding)


def scores_of(stage: NativeLLMStage | TorchLLMStage, inputs: LLMInput, steps: int) -> np.ndarray:
    state = stage.init_state(inputs)  # type: ignore[arg-type]
    rows = [stage.step(None if i == 0 else i % 40, state)[0] for i in range(steps)]  # type: ignore[arg-type]
    stage.release(state)  # type: ignore[arg-type]
    return np.stack(rows)


@pytest.mark.parametrize("speaker", [True, False])
def test_prompt_and_steps(pair: Pair, speaker: bool) -> None:
    """A prompt longer than one run, then steps past the first capacity: the table of distances grows with it."""
    inputs = some_input(50, 40, speaker=speaker)
    found = scores_of(pair.stage(capacity=32), inputs, 50)
    np.testing.assert_allclose(found, scores_of(pair.reference, inputs, 50), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("precision", "bound"), [("int8", 5e-3), ("int4", 0.5), ("mixed", 0.5)])
def test_quantisation_changes_the_distribution_little(pair: Pair, precision: str, bound: float) -> None:
    inputs = some_input(10, 5)
    expected = scores_of(pair.reference, inputs, 20)
    found = scores_of(pair.stage(precision), inputs, 20)
    divergence = (np.exp(expected) * (expected - found)).sum(-1).mean()
    assert 0 < divergence < bound


def test_requests_at_once_equal_each_alone(pair: Pair) -> None:
    """Prompts and lengths differ, so rows of one run are at different distances; the buffers grow."""
    jobs = [(some_input(4 + 7 * i, 3 * i, seed=i, speaker=i != 2), 6 + 4 * i) for i in range(5)]
    expected = [scores_of(pair.reference, *job) for job in jobs]
    stage = pair.stage(slots=2, capacity=32)
    with ThreadPoolExecutor(5) as pool:
        for found, alone in zip(pool.map(lambda job: scores_of(stage, *job), jobs), expected, strict=True):
            np.testing.assert_allclose(found, alone, rtol=0, atol=1e-4)


def test_sinusoids_are_those_of_the_reference() -> None:
    expected = positions.sinusoids(torch.arange(300), 24)
    np.testing.assert_allclose(sinusoids(300, 24), expected, rtol=0, atol=5e-5)


def test_bad_input(pair: Pair) -> None:
    stage = pair.stage()
    with pytest.raises(TextError, match="50 tokens"):
        stage.init_state(LLMInput([50]))
    with pytest.raises(VoiceError, match="6 numbers"):
        stage.init_state(LLMInput([1], speaker_embedding=np.zeros(7, np.float32)))
    with pytest.raises(VoiceError, match="outside"):
        stage.feed([Row(Kind.SPEECH, 40)], stage.open())
    with pytest.raises(GenerationError, match="row for a speaker"):
        stage.feed([Row(Kind.SPEAKER, 0)], stage.open())
    with pytest.raises(ConfigError, match="whole text at once"):
        stage.text_stream(LLMInput(()), lambda scores, history: 0)
    assert sum(not member.released for member in stage._batcher._members) == 2  # the two that were opened by hand


def test_bad_files(pair: Pair, tmp_path: Path) -> None:
    good = (pair.directories["fp32"] / "llm.safetensors").read_bytes()
    (tmp_path / "llm.safetensors").write_bytes(good)
    with pytest.raises(ModelError, match=r"text_encoder\.onnx is missing"):
        NativeLLMStage(tmp_path, CONFIG, None, Runtime(1))
    wider = CONFIG.model_copy(update={"speaker_embedding_dim": 7})
    with pytest.raises(ModelError, match="has the shape"):
        NativeLLMStage(tmp_path, wider, None, Runtime(1))
