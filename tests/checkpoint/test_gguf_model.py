from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from cosyvoice.checkpoint.gguf_file import Blocks, GgufFile, numbers, quantised, write_gguf
from cosyvoice.checkpoint.gguf_model import FILES, is_gguf, is_linear, read_gguf_network, stored_as, write_gguf_network
from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.model import ModelConfig
from cosyvoice.config.released import read_model_config
from cosyvoice.errors import ConfigError, ModelError

PARITY = Path(__file__).parents[1] / "data" / "parity"
UNUSED = "llm.model.lm_head.weight"


def _weights(generation: str, network: str) -> dict[str, np.ndarray]:
    state = load_state_dict(PARITY / generation / "model" / f"{network}.pt")
    return {name: tensor.numpy() for name, tensor in state.items() if name != UNUSED}


def _config(generation: str) -> ModelConfig:
    return read_model_config(PARITY / generation / "model")


@pytest.mark.parametrize(
    ("generation", "precision"),
    [("v1", "fp32"), ("v1", "q4_0"), ("v2", "fp16"), ("v2", "q8_0"), ("v3", "fp16"), ("v3", "q4_0")],
)
def test_every_network_comes_back(tmp_path: Path, generation: str, precision: str) -> None:
    config = _config(generation)
    for network, bound in (("llm", 0.2), ("flow", 0.02), ("hift", 0.002)):
        weights = _weights(generation, network)
        write_gguf_network(tmp_path, network, weights, config, precision)
        back = read_gguf_network(tmp_path, network, config)
        assert back.keys() == weights.keys()
        for name, weight in weights.items():
            restored = numbers(back[name])
            assert restored.shape == weight.shape
            if precision == "fp32" or weight.ndim == 1 or name.startswith("f0_predictor."):
                np.testing.assert_array_equal(restored, weight)
            else:
                assert np.linalg.norm(restored - weight) <= bound * np.linalg.norm(weight)
        in_blocks = {name for name, tensor in back.items() if isinstance(tensor, Blocks)}
        assert bool(in_blocks) == (precision in ("q8_0", "q4_0") and network != "hift")
    assert is_gguf(tmp_path) and not is_gguf(tmp_path / "x")


def test_the_body_is_a_file_that_other_tools_know(tmp_path: Path) -> None:
    config = _config("v3")
    write_gguf_network(tmp_path, "llm", _weights("v3", "llm"), config, "q8_0", {"source": "here"})
    reader = gguf.GGUFReader(tmp_path / "llm.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "qwen2" and fields["general.file_type"] == 7
    assert fields["qwen2.embedding_length"] == 32 and fields["tokenizer.ggml.model"] == "none"
    assert ModelConfig.model_validate_json(fields["cosyvoice.config"]) == config
    assert fields["cosyvoice.source"] == "here"
    allowed = {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[gguf.MODEL_ARCH.QWEN2]}
    stems = {tensor.name.rpartition(".")[0].replace("blk.0.", "blk.{bid}.") for tensor in reader.tensors}
    assert {stem for stem in stems if "blk.1" not in stem} <= allowed
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.attn_q.weight"] == "Q8_0" and types["token_embd.weight"] == "F16"
    assert types["blk.0.attn_q.bias"] == types["output_norm.weight"] == "F32"
    speech = GgufFile(tmp_path / "speech.gguf")
    assert set(speech.names) == {"llm_decoder.weight", "speech_embedding.weight"}


def test_blocks_are_written_as_they_are(tmp_path: Path) -> None:
    config = _config("v3")
    weights = _weights("v3", "llm")
    write_gguf_network(tmp_path, "llm", weights, config, "q4_0")
    first = read_gguf_network(tmp_path, "llm", config)
    for precision in (None, "q4_0"):
        write_gguf_network(tmp_path, "llm", first, config, precision)
        second = read_gguf_network(tmp_path, "llm", config)
        for name, tensor in first.items():
            assert isinstance(tensor, Blocks) == isinstance(second[name], Blocks)
            data = [item.data if isinstance(item, Blocks) else item for item in (tensor, second[name])]
            np.testing.assert_array_equal(*data)


def test_types_follow_name_and_shape() -> None:
    matrix = np.ones((4, 64), np.float32)
    assert is_linear("a.linear_q.weight") and not is_linear("speech_embedding.weight") and not is_linear("a.bias")
    assert isinstance(stored_as("a.weight", matrix, "llm", "q8_0"), Blocks)
    assert numbers(stored_as("a.weight", matrix[:, :30], "llm", "q8_0")).dtype == np.float16
    assert numbers(stored_as("a.weight", matrix * 1e6, "llm", "fp16")).dtype == np.float32, "beyond half precision"
    flow = stored_as("a.weight", matrix, "flow", "q4_0")
    assert isinstance(flow, Blocks) and flow.type == "Q8_0"
    assert numbers(stored_as("a.count", np.arange(3), "llm", "fp16")).dtype == np.int64
    stored = quantised(matrix, "Q8_0")
    assert stored_as("a.weight", stored, "llm", None) is stored_as("a.weight", stored, "llm", "q8_0") is stored
    assert numbers(stored_as("a.weight", stored, "llm", "fp32")).dtype == np.float32


def test_foreign_files(tmp_path: Path) -> None:
    config = _config("v3")
    weights = _weights("v3", "llm")
    write_gguf_network(tmp_path, "llm", weights, config, "fp16")
    with pytest.raises(ConfigError, match="no precision 'q3'"):
        write_gguf_network(tmp_path, "llm", weights, config, "q3")
    with pytest.raises(ModelError, match=r"of generation v3, the configuration .* of v2"):
        read_gguf_network(tmp_path, "llm", config.model_copy(update={"generation": "v2"}))
    with pytest.raises(ModelError, match=r"'qwen2' instead of 'cosyvoice'"):
        read_gguf_network(tmp_path, "llm", _config("v1"))
    wider = config.llm.model_copy(update={"qwen": config.llm.qwen.model_copy(update={"vocab_size": 801})})
    with pytest.raises(ModelError, match=r"qwen2\.vocab_size is 800, .* asks for 801"):
        read_gguf_network(tmp_path, "llm", config.model_copy(update={"llm": wider}))
    write_gguf(tmp_path / "llm.gguf", "llama", {}, {"x": weights["llm_decoder.weight"]})
    with pytest.raises(ModelError, match=r"architecture 'llama' instead of 'qwen2'"):
        read_gguf_network(tmp_path, "llm", config)
    write_gguf(tmp_path / "llm.gguf", "qwen2", {}, {"x": weights["llm_decoder.weight"]})
    with pytest.raises(ModelError, match="make it with 'cosyvoice convert"):
        read_gguf_network(tmp_path, "llm", config)
    write_gguf_network(tmp_path, "llm", weights, config, "fp16")
    (tmp_path / FILES["llm"][1]).unlink()
    with pytest.raises(ModelError, match=r"speech\.gguf is missing"):
        read_gguf_network(tmp_path, "llm", config)


def test_tensors_that_the_body_does_not_have(tmp_path: Path) -> None:
    config = _config("v3")
    write_gguf_network(tmp_path, "llm", _weights("v3", "llm"), config, "fp16")
    file = GgufFile(tmp_path / "llm.gguf")
    kept = {key: value for key, value in file.metadata.items() if not key.startswith(("GGUF.", "general.arch"))}
    extra = np.ones((2, 32), np.float32)
    write_gguf(tmp_path / "new.gguf", "qwen2", kept, {**file.tensors(), "output.weight": extra})
    (tmp_path / "new.gguf").replace(tmp_path / "llm.gguf")
    assert "output.weight" not in read_gguf_network(tmp_path, "llm", config), "the tied head of the text model"
    write_gguf(tmp_path / "new.gguf", "qwen2", kept, {**GgufFile(tmp_path / "llm.gguf").tensors(), "blk.0.x": extra})
    (tmp_path / "new.gguf").replace(tmp_path / "llm.gguf")
    with pytest.raises(ModelError, match=r"'blk\.0\.x', which no Qwen2 decoder has"):
        read_gguf_network(tmp_path, "llm", config)
