"""Speech tokenizer and speaker encoder as ONNX files with the inputs and outputs of the released models.

Either can so replace the released one and be replaced by it. Beside them goes the tokenizer's recogniser of phones,
which places words in time. Weights are stored in half precision, which
halves the files, and widened to single precision inside the graph: the arithmetic stays that of the PyTorch
networks.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cosyvoice.audio.io import write_bytes_atomically
from cosyvoice.errors import MissingDependencyError, ModelError, OutputError
from cosyvoice.speaker_encoder.model import SpeakerEncoder
from cosyvoice.speech_tokenizer.model import SpeechTokenizer

_OPSET = 20
_EXAMPLE_FRAMES = 203
_HALVED_FROM = 256
"""Tensors of fewer values stay in single precision: they save nothing."""


class _TokenIds(nn.Module):
    """The part of the tokenizer that makes ids; its decoders serve training and recognition only."""

    def __init__(self, tokenizer: SpeechTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, feats: Tensor, feats_length: Tensor) -> Tensor:
        return self.tokenizer.fsq.indices(self.tokenizer.latent(feats, feats_length)).to(torch.int32)


class _PhonesOfTokens(nn.Module):
    """The part of the tokenizer that hears phones in ids."""

    def __init__(self, tokenizer: SpeechTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, indices: Tensor) -> Tensor:
        tokenizer = self.tokenizer
        hidden = tokenizer.decode(tokenizer.fsq.codes(indices), torch.full([1], indices.shape[1]))
        return torch.log_softmax(tokenizer.phone_head(hidden), dim=-1)


def export_speech_tokenizer(model: SpeechTokenizer, path: Path, half: bool = True) -> None:
    """Write `model` as feats float32 [1, n_mels, frames], feats_length int32 [1] -> indices int32 [1, tokens].

    The ids are those of `SpeechTokenizer.encode`, for any number of frames (100 Hz). `model` is not changed.

    Args:
        model: the network, in any mode and on any device.
        path: the file, complete in itself.
        half: store weights in half precision.

    Raises:
        MissingDependencyError: the exporter's packages are not installed.
        ModelError: a weight does not fit half precision.
        OutputError: the file cannot be written.
    """
    network = _TokenIds(_for_inference(model))
    feats = torch.zeros(1, model.config.n_mels, _EXAMPLE_FRAMES)
    lengths = torch.tensor([_EXAMPLE_FRAMES], dtype=torch.int32)
    shapes = ({2: torch.export.Dim("frames", min=1)}, None)
    _write(network, (feats, lengths), shapes, ["feats", "feats_length"], ["indices"], path, half)


def export_aligner(model: SpeechTokenizer, path: Path, half: bool = True) -> None:
    """Write the recogniser in `model` as indices int32 [1, tokens] -> log_probs float32 [1, frames, phone classes].

    Frames are half a token long (50 Hz); the classes are those of `cosyvoice.text.phone_classes`. The ids are those
    of the file that `export_speech_tokenizer` writes. Arguments and errors as there.
    """
    indices = torch.zeros(1, _EXAMPLE_FRAMES, dtype=torch.int32)
    shapes = ({1: torch.export.Dim("tokens", min=1)},)
    _write(_PhonesOfTokens(_for_inference(model)), (indices,), shapes, ["indices"], ["log_probs"], path, half)


def export_speaker_encoder(model: SpeakerEncoder, path: Path, half: bool = True) -> None:
    """Write `model` as input float32 [1, frames, n_mels] -> output float32 [1, embedding_dim].

    At least 15 frames (100 Hz) are needed, the context of the network. Arguments and errors as in
    `export_speech_tokenizer`.
    """
    fbank = torch.zeros(1, _EXAMPLE_FRAMES, model.config.n_mels)
    _write(
        _for_inference(model),
        (fbank,),
        ({1: torch.export.Dim("frames", min=15)},),
        ["input"],
        ["output"],
        path,
        half,
    )


def _for_inference(model: Any) -> Any:
    """A copy on the CPU without dropout and with fixed batch statistics."""
    return copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)


def _write(
    network: nn.Module,
    example: tuple[Tensor, ...],
    dynamic_shapes: tuple[dict[int, Any] | None, ...],
    inputs: list[str],
    outputs: list[str],
    path: Path,
    half: bool,
) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it and fails later, less clearly
    except ImportError as error:
        raise MissingDependencyError("the ONNX export needs: pip install 'cosyvoice[export]'") from error
    path = Path(path)
    if not path.parent.is_dir():
        # Told before the export, which takes seconds.
        raise OutputError(f"the directory {path.parent} does not exist; create it first")
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            example,
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            input_names=inputs,
            output_names=outputs,
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ModelError("torch.onnx.export gave no graph; use a PyTorch of this package's constraints")
    proto = program.model_proto
    _strip(proto)
    if half:
        _halve_weights(proto)
    onnx.checker.check_model(proto, full_check=True)
    write_bytes_atomically(path, proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about packages and deprecations of its own."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(proto: Any) -> None:
    """Remove what the exporter notes about the source: it holds paths of this machine."""
    del proto.metadata_props[:]
    proto.doc_string = ""
    graph = proto.graph
    graph.doc_string = ""
    for item in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        item.doc_string = ""
        del item.metadata_props[:]
    # Shapes of intermediate values can be inferred again.
    del graph.value_info[:]
    del graph.metadata_props[:]


def _halve_weights(proto: Any) -> None:
    """Store large float32 initialisers as float16 with a Cast behind each; ONNX Runtime folds it at
    loading.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _HALVED_FROM:
            continue
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if not np.isfinite(halved).all():
            raise ModelError(f"weight {tensor.name!r} does not fit half precision; export with half=False")
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(halved, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.cast", to=TensorProto.FLOAT))
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*casts, *nodes])
