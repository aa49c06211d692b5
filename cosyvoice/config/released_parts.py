"""Translation of the parts that the YAML files of all generations share, and the bookkeeping around it.

Every key is translated, checked against the one value that is supported, or passed over by name. A key that is not
written has the default of the released class; where that default is a network we do not have, the key must be there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from cosyvoice.config.hyperpyyaml import Tagged, read_hyperpyyaml, walk_tagged
from cosyvoice.config.model import ModelConfig
from cosyvoice.config.qwen_files import QWEN_DIRECTORY, read_qwen_geometry
from cosyvoice.errors import ConfigError

MEL = "matcha.utils.audio.mel_spectrogram"
RAS = "cosyvoice.utils.common.ras_sampling"
DICT_CONFIG = "omegaconf.DictConfig"
QWEN_ENCODER = "cosyvoice.llm.llm.Qwen2Encoder"
QWEN_TOKENIZER = "cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer"
CONFORMER = "cosyvoice.transformer.encoder.ConformerEncoder"
HIFT = "cosyvoice.hifigan.generator.HiFTGenerator"
F0_PREDICTOR = "cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor"

# Names that describe no network of inference: seeding, data processing, adversarial training.
_PROCESSORS = (
    "parquet_opener", "individual_file_opener", "tokenize", "filter", "resample", "truncate", "compute_fbank",
    "compute_whisper_fbank", "compute_f0", "parse_embedding", "shuffle", "sort", "batch", "padding",
)  # fmt: skip
_IGNORED = frozenset(
    [
        *(f"cosyvoice.dataset.processor.{name}" for name in _PROCESSORS),
        "cosyvoice.hifigan.hifigan.HiFiGan",
        "cosyvoice.hifigan.discriminator.MultipleDiscriminator",
        "cosyvoice.hifigan.discriminator.MultiResSpecDiscriminator",
        "matcha.hifigan.models.MultiPeriodDiscriminator",
        "random.seed",
        "numpy.random.seed",
        "torch.manual_seed",
        "torch.cuda.manual_seed_all",
    ]
)
# The released generator takes this rate as the sign of the first generation's sine source.
_SAMPLE_WISE_SOURCE_RATE = 22050
_HIFT_DEFAULTS: dict[str, Any] = {
    "sampling_rate": 22050,
    "upsample_rates": [8, 8],
    "upsample_kernel_sizes": [16, 16],
    "source_resblock_kernel_sizes": [7, 11],
    "source_resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
}
# Training only, or parts that a layer without convolution module does not have.
_ENCODER_PASSED_OVER = (
    "dropout_rate", "positional_dropout_rate", "attention_dropout_rate", "gradient_checkpointing",
    "cnn_module_kernel", "cnn_module_norm", "causal",
)  # fmt: skip


class ReleasedYaml:
    """One YAML file of a model directory; a generation derives from it and says which classes stand where."""

    generation: str
    known: frozenset[str]
    """Dotted names that this generation's parts may have."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.qwen_dir = path.parent / QWEN_DIRECTORY
        self.tree = read_hyperpyyaml(path, {"qwen_pretrain_path": str(self.qwen_dir)})

    def translate(self) -> ModelConfig:
        """The configuration. Raises `ConfigError`, naming what this version does not know, or `ModelError`."""
        for tagged in walk_tagged(self.tree):
            if tagged.target not in _IGNORED and tagged.target not in self.known:
                raise ConfigError(
                    f"{self.path}: !{tagged.kind}:{tagged.target} is not a part this version knows in a "
                    f"{self.generation.upper()} model; known parts: {', '.join(sorted(self.known))}"
                )
        return cast(ModelConfig, ModelConfig.parse(self.model(), str(self.path)))

    def model(self) -> dict[str, Any]:
        """Fields of `ModelConfig`."""
        raise NotImplementedError

    def part(self, key: str) -> Any:
        """A top-level entry that has to be there."""
        if key not in self.tree:
            raise ConfigError(f"{self.path}: the key {key!r} is missing; is this the YAML file of a released model?")
        return self.tree[key]

    def arguments(self, value: Any, target: str, where: str) -> dict[str, Any]:
        """A fresh copy of the arguments of `value`, which has to be a `target`."""
        if not isinstance(value, Tagged) or value.target != target:
            found = f"!{value.kind}:{value.target}" if isinstance(value, Tagged) else f"a {type(value).__name__}"
            raise ConfigError(
                f"{self.path}: {where} is {found}, but a {self.generation.upper()} model has {target} there; "
                "use the YAML file that came with the weights"
            )
        if not isinstance(value.arguments, (dict, type(None))):
            raise ConfigError(f"{self.path}: {where}: {target} needs named arguments")
        return dict(value.arguments or {})

    def expect(self, arguments: dict[str, Any], where: str, **expected: Any) -> None:
        """Remove arguments that have only one supported value, which is also their default; refuse another."""
        for key, value in expected.items():
            if arguments.pop(key, value) != value:
                raise ConfigError(f"{self.path}: {where}.{key} must be {value!r} in a {self.generation.upper()} model")

    def require(self, arguments: dict[str, Any], where: str, **expected: Any) -> None:
        """As `expect`, for arguments whose default is another value, so that they have to be written."""
        self.must_hold(arguments, where, expected)
        self.expect(arguments, where, **expected)

    def must_hold(self, arguments: dict[str, Any], where: str, keys: Iterable[str]) -> None:
        """Refuse arguments without one of `keys`."""
        for key in keys:
            if key not in arguments:
                raise ConfigError(
                    f"{self.path}: {where}.{key} is missing; use the YAML file that came with the weights"
                )

    def refuse_rest(self, arguments: dict[str, Any], where: str) -> None:
        """Refuse whatever nobody has taken out of `arguments`."""
        if arguments:
            raise ConfigError(f"{self.path}: {where}: unknown key {sorted(arguments)[0]!r}; remove it")

    def mapping(self, value: Any, where: str) -> dict[str, Any]:
        """A fresh copy of a plain mapping; nothing counts as an empty one."""
        if not isinstance(value, (dict, type(None))):
            raise ConfigError(f"{self.path}: {where} must be a mapping; use the YAML file that came with the weights")
        return dict(value or {})

    def rename(self, arguments: dict[str, Any], **names: str) -> None:
        """Give arguments the names of our configuration: `theirs=ours`."""
        for theirs, ours in names.items():
            if theirs in arguments:
                arguments[ours] = arguments.pop(theirs)

    def qwen_lm(self, value: Any, target: str) -> dict[str, Any]:
        """A language model on the Qwen2 decoder."""
        arguments = self.arguments(value, target, "llm")
        encoder = self.arguments(arguments.pop("llm", None), QWEN_ENCODER, "llm.llm")
        encoder.pop("pretrain_path", None)
        self.refuse_rest(encoder, "llm.llm")
        qwen = read_qwen_geometry(self.qwen_dir)
        width = qwen["hidden_size"]
        self.expect(arguments, "llm", llm_input_size=width, llm_output_size=width)
        arguments["sampling"] = self.arguments(arguments.pop("sampling", None), RAS, "llm.sampling")
        self.rename(arguments, lsm_weight="label_smoothing")
        return {**arguments, "qwen": qwen}

    def qwen_tokenizer(self, version: str) -> None:
        """Check the tokenizer's part, where there is one: the version decides which tokens are added."""
        if "get_tokenizer" not in self.tree:
            return
        arguments = self.arguments(self.tree["get_tokenizer"], QWEN_TOKENIZER, "get_tokenizer")
        self.expect(arguments, "get_tokenizer", version=version, skip_special_tokens=True)
        arguments.pop("token_path", None)
        self.refuse_rest(arguments, "get_tokenizer")

    def encoder(self, value: Any, target: str, where: str, layer: str = "conformer") -> dict[str, Any]:
        """Fields of `EncoderConfig`: self-attention with relative positions, without convolution or macaron."""
        arguments = self.arguments(value, target, where)
        for key in _ENCODER_PASSED_OVER:
            arguments.pop(key, None)
        self.must_hold(
            arguments, where,
            ("input_layer", "input_size", "output_size", "attention_heads", "linear_units", "num_blocks"),
        )  # fmt: skip
        self.require(arguments, where, pos_enc_layer_type="rel_pos_espnet")
        self.expect(
            arguments, where, normalize_before=True, use_dynamic_chunk=False, use_dynamic_left_chunk=False,
            key_bias=True, global_cmvn=None, positionwise_conv_kernel_size=1,
        )  # fmt: skip
        if layer == "conformer":
            self.require(arguments, where, use_cnn_module=False, macaron_style=False)
            self.expect(arguments, where, selfattention_layer_type="rel_selfattn", activation_type="swish")
        else:
            self.require(arguments, where, selfattention_layer_type="rel_selfattn")
            self.expect(arguments, where, activation_type="relu")
        if arguments["output_size"] % max(1, arguments["attention_heads"]):
            raise ConfigError(f"{self.path}: {where}.output_size must be a multiple of attention_heads")
        return {**arguments, "layer": layer}

    def flow_decoder(self, value: Any, target: str, mel_dim: int) -> tuple[Any, dict[str, Any]]:
        """The estimator's part, still to be translated, and the fields of `CFMConfig`."""
        decoder = self.arguments(value, target, "flow.decoder")
        self.expect(decoder, "flow.decoder", n_spks=1, spk_emb_dim=mel_dim, in_channels=3 * mel_dim)
        estimator = decoder.pop("estimator", None)
        where = "flow.decoder.cfm_params"
        outer = self.arguments(decoder.pop("cfm_params", None), DICT_CONFIG, where)
        content = self.mapping(outer.pop("content", None), where)
        self.refuse_rest(outer, where)
        # Named in the released files, read by nothing there.
        content.pop("reg_loss_type", None)
        self.refuse_rest(decoder, "flow.decoder")
        return estimator, content

    def unet(self, value: Any, target: str, mel_dim: int, causal: bool) -> dict[str, Any]:
        """Fields of `UNetConfig`."""
        where = "flow.decoder.estimator"
        arguments = self.arguments(value, target, where)
        arguments.pop("dropout", None)
        # How many chunks to the left are seen is named in the released files, read by nothing there.
        arguments.pop("num_decoding_left_chunks", None)
        self.must_hold(arguments, where, ("channels", "attention_head_dim", "n_blocks", "num_mid_blocks", "num_heads"))
        self.require(arguments, where, in_channels=4 * mel_dim, out_channels=mel_dim, act_fn="gelu")
        return {**arguments, "in_channels": 4 * mel_dim, "out_channels": mel_dim, "causal": causal}

    def hift(self, value: Any, target: str, predictor_target: str) -> dict[str, Any]:
        """The fields of `HiFTConfig` that are written."""
        arguments = self.arguments(value, target, "hift")
        istft = self.mapping(arguments.pop("istft_params", None), "hift.istft_params")
        self.rename(istft, n_fft="istft_n_fft", hop_len="istft_hop")
        for key in ("istft_n_fft", "istft_hop"):
            if key in istft:
                arguments[key] = istft.pop(key)
        self.refuse_rest(istft, "hift.istft_params")
        where = "hift.f0_predictor"
        predictor = self.arguments(arguments.pop("f0_predictor", None), predictor_target, where)
        self.expect(predictor, where, num_class=1, in_channels=arguments.get("in_channels", 80))
        if "cond_channels" in predictor:
            arguments["f0_channels"] = predictor.pop("cond_channels")
        self.refuse_rest(predictor, where)
        return arguments

    def non_causal_hift(self, value: Any, joint_frames: int) -> dict[str, Any]:
        """Fields of `HiFTConfig` for the vocoder of the first two generations."""
        arguments = {**_HIFT_DEFAULTS, **self.hift(value, HIFT, F0_PREDICTOR)}
        source_phase = "sample" if arguments["sampling_rate"] == _SAMPLE_WISE_SOURCE_RATE else "linear"
        return {
            **arguments,
            "causal": False,
            "f0_in_float64": False,
            "source_phase": source_phase,
            "joint_frames": joint_frames,
        }

    def mel(self, value: Any) -> dict[str, Any]:
        """Fields of `MelConfig`."""
        arguments = self.arguments(value, MEL, "feat_extractor")
        self.expect(arguments, "feat_extractor", center=False)
        self.rename(arguments, num_mels="n_mels", sampling_rate="sample_rate")
        return arguments
