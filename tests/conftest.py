"""A complete model directory of our own layout with random weights, small enough to make anew in each run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import soundfile
import torch

import cosyvoice
from cosyvoice.checkpoint.weights import write_weights
from cosyvoice.config.model import (
    CausalMaskedDiffConfig,
    CFMConfig,
    DiTConfig,
    EncoderConfig,
    FlowConfig,
    HiFTConfig,
    LLMConfig,
    MaskedDiffConfig,
    ModelConfig,
    Qwen2Config,
    UNetConfig,
)
from cosyvoice.engine.pipeline import TTS
from cosyvoice.flow.causal_masked_diff import CausalMaskedDiffWithXvec
from cosyvoice.flow.conditional import ConditionalFlow
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.flow.masked_diff import MaskedDiffWithXvec
from cosyvoice.hifigan.generator import CausalHiFTGenerator
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM
from cosyvoice.voice.voice import Voice

FlowT = TypeVar("FlowT", bound=ConditionalFlow)
SPEECH_TOKENS = 61
EMBEDDING_DIM = 192
PARITY = Path(__file__).parent / "data" / "parity"
REFERENCE_WAV = PARITY / "wav" / "source_16k.wav"


def tiny_config() -> ModelConfig:
    """All networks in miniature, attention chunks of 25 tokens as in the real models."""
    return ModelConfig(
        name="tiny",
        tokenizer="phones",
        end_of_prompt_id=None,
        llm=LLMConfig(
            qwen=Qwen2Config(
                hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=16, vocab_size=96
            ),
            speech_token_size=SPEECH_TOKENS,
            speech_extra_tokens=4,
            enforce_min_len=True,
        ),
        flow=FlowConfig(
            vocab_size=SPEECH_TOKENS,
            pre_lookahead_channels=8,
            cfm=CFMConfig(n_timesteps=2),
            dit=DiTConfig(dim=32, depth=1, heads=2, dim_head=16, static_chunk_size=50),
        ),
        hift=HiFTConfig(base_channels=16, f0_channels=8, f0_in_float64=False, source_phase="sample"),
    )


def write_tiny_model(directory: Path) -> None:
    """Everything a model directory holds, two presets included."""
    config = tiny_config()
    generator = torch.Generator().manual_seed(5)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(config.model_dump_json())
    llm = CosyVoice3LM(config.llm)
    llm.initialize(generator)
    networks = {
        "llm": llm,
        "flow": CausalMaskedDiffWithDiT(config.flow),
        "hift": CausalHiFTGenerator(config.hift),
    }
    for name, network in networks.items():
        weights = {
            key: torch.randn(value.shape, generator=generator) * 0.2
            if name == "flow" and value.is_floating_point() and "inv_freq" not in key
            else value
            for key, value in network.state_dict().items()
        }
        write_weights(directory / f"{name}.safetensors", weights)
    write_prompt_encoders(directory)
    (directory / "voices").mkdir()
    for index, name in enumerate(("anna", "bert")):
        random_voice(name, index).save(directory / "voices" / f"{name}.safetensors")


def write_prompt_encoders(directory: Path) -> None:
    """ONNX graphs with the signatures of the real ones: pooled features as tokens and as an embedding."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def save(name: str, nodes: list[onnx.NodeProto], inputs: list, outputs: list, constants: dict) -> None:
        initializers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
        graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(directory / f"{name}.onnx"))

    value = helper.make_tensor_value_info
    save(
        "speech_tokenizer",
        [
            helper.make_node("AveragePool", ["feats"], ["pooled"], kernel_shape=[4], strides=[4], ceil_mode=1),
            helper.make_node("ReduceMean", ["pooled"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
            helper.make_node("Cast", ["scaled"], ["whole"], to=TensorProto.INT32),
            helper.make_node("Abs", ["whole"], ["positive"]),
            helper.make_node("Mod", ["positive", "size"], ["indices"]),
        ],
        [value("feats", TensorProto.FLOAT, [1, 128, "T"]), value("feats_length", TensorProto.INT32, [1])],
        [value("indices", TensorProto.INT32, [1, "tokens"])],
        {"scale": np.float32(997), "size": np.int32(SPEECH_TOKENS)},
    )
    weight = np.random.default_rng(0).standard_normal((80, EMBEDDING_DIM)).astype(np.float32)
    save(
        "campplus",
        [
            helper.make_node("Abs", ["input"], ["size"]),
            helper.make_node("ReduceMean", ["size"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["output"]),
        ],
        [value("input", TensorProto.FLOAT, [1, "T", 80])],
        [value("output", TensorProto.FLOAT, [1, EMBEDDING_DIM])],
        {"weight": weight},
    )


def random_voice(name: str, seed: int = 0, tokens: int = 40, transcript: str = "", model: str = "tiny") -> Voice:
    """A voice of random numbers for the tiny model."""
    random = np.random.default_rng(seed)
    return Voice(
        name=name,
        speech_token=random.integers(0, SPEECH_TOKENS, tokens).astype(np.int32),
        mel=random.standard_normal((2 * tokens, 80)).astype(np.float16),
        speaker_embedding=random.standard_normal(EMBEDDING_DIM).astype(np.float32),
        transcript=transcript,
        gender="female",
        model=model,
    )


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_tts(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TTS:
    """The tiny model, loaded once; its store of own voices is empty and private to the run."""
    tts = cosyvoice.load(tiny_model_dir, threads=1)
    tts.store.directory = tmp_path_factory.mktemp("home") / "voices"
    return tts


@pytest.fixture
def write_wav(tmp_path: Path) -> Callable[..., Path]:
    """Writes samples [time] or [time, channels] to a file in a fresh directory."""

    def write(samples: np.ndarray, rate: int = 24000, subtype: str = "PCM_16", name: str = "ref.wav") -> Path:
        path = tmp_path / name
        soundfile.write(path, samples, rate, subtype=subtype)
        return path

    return write


@pytest.fixture(scope="session")
def make_voice() -> Callable[..., Voice]:
    """`random_voice` for tests."""
    return random_voice


@pytest.fixture(scope="session")
def make_speech() -> Callable[..., np.ndarray]:
    """`speech_like` for tests."""
    return speech_like


@pytest.fixture(scope="session")
def masked_diff() -> MaskedDiffWithXvec:
    """A flow of the first generation: 5 tokens of overlap, which are 8 mel frames, and two levels."""
    unet = UNetConfig(
        in_channels=32, out_channels=8, channels=(16, 24), attention_head_dim=4, num_heads=2, n_blocks=1,
        num_mid_blocks=1,
    )  # fmt: skip
    config = MaskedDiffConfig(
        vocab_size=37, mel_dim=8, speaker_embedding_dim=12, regulator_layers=2, overlap_tokens=5, cached_frames=8,
        mel_mean=-1.0, mel_std=2.0, cfm=CFMConfig(n_timesteps=3), unet=unet,
        encoder=EncoderConfig(input_size=12, output_size=16, attention_heads=2, linear_units=20, num_blocks=2),
    )  # fmt: skip
    return with_random_weights(MaskedDiffWithXvec(config))


@pytest.fixture(scope="session")
def causal_masked_diff() -> CausalMaskedDiffWithXvec:
    """A flow of the second generation: attention chunks of 5 tokens, which are 10 mel frames."""
    unet = UNetConfig(
        in_channels=32, out_channels=8, channels=(16,), attention_head_dim=4, num_heads=2, n_blocks=2,
        num_mid_blocks=1, causal=True, static_chunk_size=10,
    )  # fmt: skip
    encoder = EncoderConfig(
        input_size=12, output_size=16, attention_heads=2, linear_units=20, num_blocks=2, static_chunk_size=5
    )
    config = CausalMaskedDiffConfig(
        vocab_size=37, mel_dim=8, speaker_embedding_dim=12, up_blocks=1, mel_mean=-1.0, mel_std=2.0,
        cfm=CFMConfig(n_timesteps=3), unet=unet, encoder=encoder,
    )  # fmt: skip
    return with_random_weights(CausalMaskedDiffWithXvec(config))


def with_random_weights(flow: FlowT) -> FlowT:
    """The same with weights that no initialisation makes too small to matter."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return flow.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def released_model_dir() -> Path:
    """A released V3 directory with tiny random networks."""
    return PARITY / "v3" / "model"


@pytest.fixture(scope="session")
def reference_wav() -> Path:
    """1.02 s at 16 kHz that passes every check."""
    return REFERENCE_WAV


def speech_like(seconds: float, rate: int = 24000, level: float = 0.3) -> np.ndarray:
    """Harmonics of 140 Hz in syllables of 0.2 s: passes for speech in every check of the signal."""
    t = np.arange(int(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 140 * h * t + h) / h for h in range(1, 12))
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 5 * t)
    return (level * tone / np.abs(tone).max() * syllables).astype(np.float32)
