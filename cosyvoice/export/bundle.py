"""`cosyvoice convert`: a model directory, released or our own, becomes a bundle for the native engine.

A bundle holds every weight once, in safetensors files that the graphs beside them point into. It is made
beside its place and moved there as a whole, so an interrupted conversion leaves nothing behind. Before that it
is run next to the reference, and what the conversion costs in quality is written into its record.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from cosyvoice import __version__
from cosyvoice.checkpoint.directories import replacing
from cosyvoice.checkpoint.released import load_spk2info, load_state_dict, network_paths
from cosyvoice.checkpoint.speakers import SPEAKERS_FILE, write_speakers
from cosyvoice.checkpoint.weights import read_weights
from cosyvoice.config.bundle import BUNDLE_FILE, PRECISIONS, Bundle, Precision, is_bundle, read_bundle
from cosyvoice.config.model import CausalMaskedDiffConfig, MaskedDiffConfig, ModelConfig
from cosyvoice.config.released import QWEN_DIRECTORY, YAML_OF_GENERATION, detect_generation, read_model_config
from cosyvoice.errors import ConfigError, ModelError, OutputError
from cosyvoice.export.flow_graph import build_flow, quantise_flow
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.hift_graph import build_hift
from cosyvoice.export.llm_graph import build_llm, quantise_llm
from cosyvoice.export.quality import compare_stages
from cosyvoice.export.quantise import as_numbers
from cosyvoice.export.unet_flow_graph import build_causal_masked_diff, build_masked_diff
from cosyvoice.export.vocoder_graph import build_vocoder, fold_weight_norm
from cosyvoice.native.loading import load_native_model
from cosyvoice.reference.loading import load_reference_model
from cosyvoice.reference.networks import expected_shapes
from cosyvoice.voice.store import VoiceStore

Arrays = Mapping[str, NDArray[Any]]
Progress = Callable[[str], None]
"""Called with what is done next."""
NETWORKS = ("llm", "flow", "hift")
TOKENIZER_FILE, ENCODER_FILE = "speech_tokenizer.onnx", "campplus.onnx"
KEPT = ("README.md", SPEAKERS_FILE)
"""Files of our own directories that a bundle takes along where there are any."""
SPK2INFO = "spk2info.pt"
RELEASED_DIRECTORY = "released"
"""Where directories in other formats keep the YAML file of the released model that they were made from."""
FLOW_PRECISION = {"fp32": "fp32", "int8": "int8", "int4": "int8", "mixed": "fp32"}
"""The flow multiplies hundreds of frames at a time, so four bits would save it memory only, at the highest cost."""
UNUSED = "llm.model.lm_head.weight"
"""The output head of the text model, which speech never passes."""


@dataclass(frozen=True)
class Source:
    """A model directory to be converted."""

    directory: Path
    config: ModelConfig
    released: bool
    variant: str = ""
    """Of the language model, in the released layout."""
    record: Bundle | None = None
    """Of a bundle."""

    @classmethod
    def open(cls, directory: Path, variant: str = "") -> Source:
        """The model in `directory`, in the released layout with the `variant` of the language model, as "rl".

        Raises `ModelError` for a directory without a model or that variant, `ConfigError` for a variant of another
        layout.
        """
        config = read_model_config(directory)
        pickled = detect_generation(directory) is not None
        if variant and not pickled:
            raise ConfigError(f"{directory} holds one set of weights; variants lie in released directories only")
        if pickled:
            network_paths(directory, variant)
        if not is_bundle(directory):
            return cls(directory, config, config.released or pickled, variant)
        bundle = read_bundle(directory)
        return cls(directory, config, bundle.released, record=bundle)

    @property
    def _pickled(self) -> bool:
        return detect_generation(self.directory) is not None

    def path(self, network: str) -> Path:
        """The file of a network's weights."""
        if self._pickled:
            return network_paths(self.directory, self.variant)[network]
        return self.directory / f"{network}.safetensors"

    def weights(self, network: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        """Weights of `llm`, `flow` or `hift` in the type of the file, and what the file says of them.

        Those that are quantised are turned into numbers.
        """
        path = self.path(network)
        tensors, metadata = (load_state_dict(path), {}) if self._pickled else read_weights(path, dtype=None)
        arrays = {name: _array(tensor) for name, tensor in tensors.items() if name != UNUSED}
        if self.rounded:
            arrays = as_numbers(arrays, expected_shapes(self.config)[network])
        return arrays, metadata

    @property
    def rounded(self) -> dict[str, str]:
        """Precision of each stage whose weights are quantised."""
        if self.record is None or self.record.float_weights:
            return {}
        return {stage: precision for stage, precision in self.record.stages.items() if precision != "fp32"}

    @property
    def speech_tokenizer(self) -> Path:
        name = f"speech_tokenizer_{self.config.generation}.onnx" if self._pickled else TOKENIZER_FILE
        return self.directory / name


@dataclass(frozen=True)
class Quantised:
    """A language model whose weights are quantised already: they take the place of those of the source.

    Attributes:
        llm: weights in the layout of `quantise_llm`.
        precision: of the bundle.
        kind: of the weights, for the record.
        files: that everything was read from, for the record.
    """

    llm: Arrays
    precision: Precision
    kind: str
    files: tuple[Path, ...]


def convert(
    source: Path,
    out: Path,
    precision: Precision = "fp32",
    overwrite: bool = False,
    progress: Progress | None = None,
    measure: bool = True,
    quantised: Quantised | None = None,
    variant: str = "",
) -> Bundle:
    """Make the bundle `out` from the model directory `source`, and measure what that costs in quality.

    Args:
        source: a released directory, one of our own, or a bundle in single precision.
        out: a directory that does not exist or is empty.
        precision: `fp32` keeps the weights; `int8` and `int4` quantise the linear layers of the language model to
            so many bits and those of the flow to 8; `mixed` quantises the language model only, its feed-forward
            layers to 4 bits and the rest to 8. The vocoder always stays in single precision.
        overwrite: replace a bundle in `out`.
        progress: told what is done next.
        measure: without it the bundle is not run, and its record says nothing of its quality.
        quantised: a language model in blocks, of which `source` holds the same weights as numbers; for `fp32`.
        variant: of the language model of a released directory, "rl" for `llm.rl.pt`.

    Raises:
        ConfigError: no such precision.
        ModelError: the source is incomplete or damaged.
        OutputError: `out` holds files, or cannot be written.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"no precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    source, out = Path(source), Path(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (overwrite and is_bundle(out)))):
        raise OutputError(f"{out} is not an empty directory; choose another one")
    opened = Source.open(source, variant)
    if opened.rounded:
        raise ModelError(f"{source} is quantised already; convert the model that it was made from")
    say = progress or (lambda stage: None)
    with replacing(out) as fresh:
        copy_frontend(opened, fresh)
        for network in NETWORKS:
            say(f"converting {network}")
            _write_network(opened, network, precision, fresh, quantised)
        record = _record(opened, precision, fresh)
        if quantised is not None:
            record = _record_of_quantised(record, quantised)
        _write_record(record, fresh)
        if measure:
            say("measuring quality")
            record = record.model_copy(update={"quality": _quality(opened, fresh)})
            _write_record(record, fresh)
    return record


def write_graphs(directory: Path) -> Bundle:
    """Make a bundle of our own model directory in its place: graphs and a record beside the weights it holds.

    The weight norms of the vocoder must be folded already. For directories that are not in use yet. Raises
    `ModelError` for weights that do not fit their configuration.
    """
    source = Source.open(directory)
    for network in NETWORKS:
        _write_graph(source.config, network, directory)
    record = _record(source, "fp32", directory)
    _write_record(record, directory)
    return record


def _write_network(
    source: Source, network: str, precision: Precision, out: Path, quantised: Quantised | None = None
) -> None:
    """Weights and graph of one network."""
    weights, metadata = source.weights(network)
    if network == "llm" and quantised is not None:
        weights = {name: _halved(array) for name, array in quantised.llm.items()}
    elif network == "hift":
        # The phase of the source sums F0 up over the utterance, so a released F0 predictor keeps every digit.
        exact = ("f0_predictor.",) if source.config.hift.f0_in_float64 else ()
        weights = fold_weight_norm(weights, keep=exact)
    elif precision != "fp32":
        if network == "llm":
            weights = quantise_llm(weights, precision)
        elif FLOW_PRECISION[precision] != "fp32":
            weights = quantise_flow(weights, FLOW_PRECISION[precision])
        weights = {name: _halved(array) for name, array in weights.items()}
    path = out / f"{network}.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, path, metadata)
    # The library writes files that only their owner may read; weights are shared like any other file.
    path.chmod(0o644)
    _write_graph(source.config, network, out)


def _write_graph(config: ModelConfig, network: str, out: Path) -> None:
    """The graph of one network, beside its weights in `out`."""
    tensors = TensorFile(out / f"{network}.safetensors")
    if network == "llm":
        build_llm(tensors, config.llm, out)
    elif network == "hift":
        (build_vocoder if config.hift.causal else build_hift)(tensors, config.hift, out)
    elif isinstance(config.flow, MaskedDiffConfig):
        build_masked_diff(tensors, config.flow, out)
    elif isinstance(config.flow, CausalMaskedDiffConfig):
        build_causal_masked_diff(tensors, config.flow, out)
    else:
        build_flow(tensors, config.flow, out)


def _halved(array: NDArray[Any]) -> NDArray[Any]:
    """Large tables in half precision: they are looked up row by row, and the file is mapped, not read."""
    half = array.dtype == np.float32 and array.ndim == 2 and array.size >= 1 << 16
    return array.astype(np.float16) if half else array


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor as NumPy has it, which knows no bfloat16."""
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def copy_frontend(source: Source, out: Path) -> None:
    """Put into `out` all but the networks: configuration, tokenizers, prompt encoders, voices and speakers.

    Raises `ModelError` for a source that lacks any of them.
    """
    config_text = source.config.model_dump_json(indent=1) + "\n"
    (out / "config.json").write_text(config_text, encoding="utf-8")
    for file, name in ((source.speech_tokenizer, TOKENIZER_FILE), (source.directory / ENCODER_FILE, ENCODER_FILE)):
        if not file.is_file():
            raise ModelError(f"{file} is missing; copy the complete model directory")
        shutil.copyfile(file, out / name)
    for name in KEPT:
        if (source.directory / name).is_file():
            shutil.copyfile(source.directory / name, out / name)
    if source.config.tokenizer == "qwen2":
        qwen = source.directory / QWEN_DIRECTORY
        weights = shutil.ignore_patterns("*.safetensors", "*.bin", "*.pt")
        shutil.copytree(qwen, out / QWEN_DIRECTORY, ignore=weights)
    for name in ("voices", RELEASED_DIRECTORY):
        if (source.directory / name).is_dir():
            shutil.copytree(source.directory / name, out / name)
    generation = detect_generation(source.directory)
    if generation is not None:
        (out / RELEASED_DIRECTORY).mkdir()
        shutil.copy(source.directory / YAML_OF_GENERATION[generation], out / RELEASED_DIRECTORY)
    if (source.directory / SPK2INFO).is_file():
        speakers = load_spk2info(source.directory / SPK2INFO)
        arrays = {name: {key: item.numpy() for key, item in entries.items()} for name, entries in speakers.items()}
        write_speakers(out / SPEAKERS_FILE, arrays)


def _record(source: Source, precision: Precision, out: Path) -> Bundle:
    graphs = sorted(path.name for path in out.glob("*.onnx"))
    files = ["config.json", *graphs, *(f"{network}.safetensors" for network in NETWORKS)]
    return Bundle(
        precision=precision,
        stages={"llm": precision, "flow": FLOW_PRECISION[precision], "vocoder": "fp32"},
        source=source.directory.resolve().name,
        source_digest={source.path(n).name: _digest(source.path(n)) for n in NETWORKS},
        made_by=__version__,
        released=source.released,
        files={name: (out / name).stat().st_size for name in files},
    )


def _record_of_quantised(record: Bundle, quantised: Quantised) -> Bundle:
    """`record`, telling of the files that were given instead of those that were made of them."""
    changes = {
        "precision": quantised.precision,
        "stages": {**record.stages, "llm": quantised.kind},
        "source": quantised.files[0].resolve().parent.name,
        "source_digest": {path.name: _digest(path) for path in quantised.files},
    }
    return record.model_copy(update=changes)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_record(record: Bundle, out: Path) -> None:
    (out / BUNDLE_FILE).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _quality(source: Source, fresh: Path) -> dict[str, float]:
    """Distances of the bundle from the reference on the source."""
    store = VoiceStore(presets=source.directory / "voices")
    names = store.preset_names()
    voice = store.get(names[0]) if names else None
    expected, stages = (
        load_reference_model(source.directory, variant=source.variant).stages,
        load_native_model(fresh).stages,
    )
    measured = compare_stages(expected, stages, source.config, voice)
    return {name: float(f"{value:.3g}") for name, value in measured.items()}
