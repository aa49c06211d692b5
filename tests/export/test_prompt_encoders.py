from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from cosyvoice.config.model import SpeakerEncoderConfig, SpeechTokenizerConfig
from cosyvoice.errors import ModelError, OutputError
from cosyvoice.export.prompt_encoders import (
    _halve_weights,
    export_aligner,
    export_speaker_encoder,
    export_speech_tokenizer,
)
from cosyvoice.speaker_encoder.model import SpeakerEncoder
from cosyvoice.speech_tokenizer.model import SpeechTokenizer


def _rounded_to_half(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.copy_(value.half().float())


@pytest.fixture(scope="module")
def tokenizer() -> SpeechTokenizer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = SpeechTokenizer(SpeechTokenizerConfig(channels=48, encoder_blocks=3, decoder_blocks=1, dropout=0.3))
        with torch.no_grad():
            # Larger values than an untrained projection gives, so that all levels are used.
            model.project_in.weight.mul_(4)
    _rounded_to_half(model)
    return model.train()


@pytest.fixture(scope="module")
def speaker_encoder() -> SpeakerEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = SpeakerEncoder(SpeakerEncoderConfig(channels=32))
        # A step of training moves the batch statistics away from their initial values.
        model.train()(torch.randn(4, 60, 80) * 3 + 1)
    _rounded_to_half(model)
    return model.train()


@pytest.fixture(scope="module")
def tokenizer_file(tokenizer: SpeechTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "speech_tokenizer.onnx"
    export_speech_tokenizer(tokenizer, path)
    return path


@pytest.fixture(scope="module")
def speaker_file(speaker_encoder: SpeakerEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speaker") / "campplus.onnx"
    export_speaker_encoder(speaker_encoder, path)
    return path


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_tokenizer_has_the_released_signature(tokenizer_file: Path) -> None:
    session = _session(tokenizer_file)
    feats, length = session.get_inputs()
    (indices,) = session.get_outputs()
    assert (feats.name, feats.type, feats.shape[:2]) == ("feats", "tensor(float)", [1, 128])
    assert (length.name, length.type, length.shape) == ("feats_length", "tensor(int32)", [1])
    assert (indices.name, indices.type) == ("indices", "tensor(int32)")


def test_tokenizer_gives_the_ids_of_the_network(tokenizer: SpeechTokenizer, tokenizer_file: Path) -> None:
    session = _session(tokenizer_file)
    network = tokenizer.eval()
    generator = torch.Generator().manual_seed(3)
    seen: set[int] = set()
    for frames in (1, 2, 3, 4, 5, 8, 99, 100, 101, 102, 103, 300, 1501):
        feats = torch.randn(1, 128, frames, generator=generator)
        expected = network.encode(feats, torch.tensor([frames])).numpy()
        length = np.array([frames], np.int32)
        (found,) = session.run(None, {"feats": feats.numpy(), "feats_length": length})
        assert found.dtype == np.int32
        assert found.shape == (1, -(-frames // 4))
        np.testing.assert_array_equal(found, expected)
        seen |= set(found.ravel().tolist())
    assert len(seen) > 100, "the test says little when few ids occur"
    tokenizer.train()


def test_aligner_hears_the_phones_of_the_network(tokenizer: SpeechTokenizer, tmp_path: Path) -> None:
    export_aligner(tokenizer, tmp_path / "aligner.onnx")
    session = _session(tmp_path / "aligner.onnx")
    network = tokenizer.eval()
    for frames in (4, 99, 400):
        feats = torch.randn(1, 128, frames, generator=torch.Generator().manual_seed(frames))
        length = torch.tensor([frames])
        with torch.no_grad():
            hidden = network.decode(network.fsq(network.latent(feats, length)), network.token_lengths(length))
            expected = network.phone_head(hidden).log_softmax(-1).numpy()
        ids = network.encode(feats, length).to(torch.int32).numpy()
        (found,) = session.run(None, {"indices": ids})
        np.testing.assert_allclose(found, expected, atol=1e-4)
    tokenizer.train()


def test_export_leaves_the_network_as_it_was(tokenizer: SpeechTokenizer, tokenizer_file: Path) -> None:
    assert tokenizer.training
    assert all(parameter.requires_grad for parameter in tokenizer.parameters())


def test_speaker_encoder_gives_the_embedding_of_the_network(
    speaker_encoder: SpeakerEncoder, speaker_file: Path
) -> None:
    session = _session(speaker_file)
    (only,) = session.get_inputs()
    assert (only.type, only.shape[0], only.shape[2]) == ("tensor(float)", 1, 80)
    network = speaker_encoder.eval()
    generator = torch.Generator().manual_seed(4)
    for frames in (15, 16, 50, 298, 1000):
        fbank = torch.randn(1, frames, 80, generator=generator)
        with torch.no_grad():
            expected = network(fbank).numpy()
        (found,) = session.run(None, {only.name: fbank.numpy()})
        assert found.shape == (1, 192)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_files_are_halved_and_tell_nothing_about_the_machine(tokenizer: SpeechTokenizer, tokenizer_file: Path) -> None:
    encoder = [tokenizer.stem, tokenizer.encoder, tokenizer.encoder_norm, tokenizer.project_in]
    weights = sum(p.numel() for part in encoder for p in part.parameters())
    data = tokenizer_file.read_bytes()
    assert len(data) < 2 * weights + 40_000
    assert b".py" not in data
    assert not list(tokenizer_file.parent.glob("*.data"))
    assert {entry.domain for entry in onnx.load(tokenizer_file).opset_import} == {""}


def test_weights_that_half_precision_cannot_hold_are_refused() -> None:
    large = numpy_helper.from_array(np.full((1, 300), 1e5, np.float32), "weight")
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 300])
    graph = helper.make_graph([helper.make_node("Identity", ["weight"], ["y"])], "g", [], [value], [large])
    with pytest.raises(ModelError, match=r"'weight'.*half=False"):
        _halve_weights(helper.make_model(graph))


def test_unwritable_place(speaker_encoder: SpeakerEncoder, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        export_speaker_encoder(speaker_encoder, tmp_path / "missing" / "campplus.onnx")
