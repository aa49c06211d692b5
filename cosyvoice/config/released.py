"""Reads a released model directory into a `ModelConfig`, without building any of the objects its YAML names.

The generation is decided, as in the released implementation, by the first file that exists of
`cosyvoice.yaml`, `cosyvoice2.yaml`, `cosyvoice3.yaml`. Class names that describe networks are translated;
those that only concern data processing and training are passed over by an explicit list; any other name is
refused, since a class we do not know may change the function that the weights were trained for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from cosyvoice.config.hyperpyyaml import Tagged, read_hyperpyyaml, walk_tagged
from cosyvoice.config.model import ModelConfig
from cosyvoice.errors import ConfigError, ModelError

YAML_OF_GENERATION = {"v1": "cosyvoice.yaml", "v2": "cosyvoice2.yaml", "v3": "cosyvoice3.yaml"}
QWEN_DIRECTORY = "CosyVoice-BlankEN"
END_OF_PROMPT = "<|endofprompt|>"
# The released command line thins out long runs of these V3 tokens, which sound like silence.
SILENT_TOKENS_V3 = (1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323)

_MEL = "matcha.utils.audio.mel_spectrogram"
# Names that describe no network of inference: seeding, data processing, adversarial training.
_PROCESSORS = (
    "parquet_opener", "individual_file_opener", "tokenize", "filter", "resample", "truncate", "compute_fbank",
    "compute_whisper_fbank", "compute_f0", "parse_embedding", "shuffle", "sort", "batch", "padding",
)  # fmt: skip
_IGNORED = frozenset(
    [
        *(f"cosyvoice.dataset.processor.{name}" for name in _PROCESSORS),
        "cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer",
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


def detect_generation(model_dir: Path) -> str | None:
    """`v1`, `v2` or `v3` by the first YAML file that exists, in that order; None where there is none."""
    for generation, name in YAML_OF_GENERATION.items():
        if (model_dir / name).is_file():
            return generation
    return None


def read_model_config(model_dir: Path) -> ModelConfig:
    """Configuration of a released directory, or of one of our own (`config.json`) without a released YAML.

    Raises:
        ModelError: the directory or one of its files is missing, or the generation is not supported yet.
        ConfigError: a file holds something that this version does not know.
    """
    model_dir = Path(model_dir)
    if not model_dir.is_dir():
        raise ModelError(f"model directory {model_dir} does not exist; check the path or download the model first")
    generation = detect_generation(model_dir)
    if generation is None:
        return _read_own_config(model_dir)
    if generation != "v3":
        raise ModelError(
            f"{model_dir / YAML_OF_GENERATION[generation]}: models of generation {generation} "
            "are not supported yet; use a directory with cosyvoice3.yaml"
        )
    return _Translator(model_dir, model_dir / YAML_OF_GENERATION["v3"]).translate()


def _read_own_config(model_dir: Path) -> ModelConfig:
    path = model_dir / "config.json"
    if not path.is_file():
        names = ", ".join(YAML_OF_GENERATION.values())
        raise ModelError(f"{model_dir} is no model directory: it holds none of config.json, {names}")
    return cast(ModelConfig, ModelConfig.parse(_read_json(path), str(path)))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; copy the complete model directory") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); download the model again") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds no JSON object; download the model again")
    return data


def read_qwen_geometry(directory: Path) -> dict[str, Any]:
    """Fields of `Qwen2Config` from a Hugging Face `config.json`.

    Raises:
        ModelError: the file is missing, incomplete, or describes another architecture than Qwen2.
    """
    path = directory / "config.json"
    data = _read_json(path)
    for key, expected in (("model_type", "qwen2"), ("hidden_act", "silu")):
        if data.get(key, expected) != expected:
            raise ModelError(f"{path}: {key} is {data[key]!r}, only {expected!r} is supported")
    for key in ("rope_scaling", "use_sliding_window"):
        if data.get(key):
            raise ModelError(f"{path}: {key} is set, which the decoder does not support; remove it")
    required = {
        "hidden_size": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "intermediate_size": "intermediate_size",
        "vocab_size": "vocab_size",
    }
    missing = [key for key in required.values() if key not in data]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}; download the model again")
    optional = {"rms_norm_eps": "rms_norm_eps", "rope_theta": "rope_theta"}
    geometry = {ours: data[theirs] for ours, theirs in required.items()}
    geometry |= {ours: data[theirs] for ours, theirs in optional.items() if theirs in data}
    geometry["num_kv_heads"] = data.get("num_key_value_heads", geometry["num_heads"])
    return geometry


def find_end_of_prompt_id(directory: Path) -> int | None:
    """Id of `<|endofprompt|>` in the tokenizer files of `directory`; None where there are no such files.

    Where the files do not list the mark, it is the first of the tokens that the released implementation adds,
    so it takes the first id behind the vocabulary and the tokens the files do list.
    """
    vocab_path, config_path = directory / "vocab.json", directory / "tokenizer_config.json"
    if not vocab_path.is_file():
        return None
    tokens: dict[str, int] = dict(_read_json(vocab_path))
    if config_path.is_file():
        for index, entry in _read_json(config_path).get("added_tokens_decoder", {}).items():
            tokens[entry["content"]] = int(index)
    if (directory / "added_tokens.json").is_file():
        tokens |= _read_json(directory / "added_tokens.json")
    return tokens.get(END_OF_PROMPT, len(tokens))


class _Translator:
    """Translates the tree of one YAML file; every key is translated, checked, or passed over by name."""

    def __init__(self, model_dir: Path, path: Path) -> None:
        self.path = path
        self.qwen_dir = model_dir / QWEN_DIRECTORY
        self.tree = read_hyperpyyaml(path, {"qwen_pretrain_path": str(self.qwen_dir)})

    def translate(self) -> ModelConfig:
        self._refuse_unknown_names()
        data: dict[str, Any] = {
            "name": "cosyvoice3",
            "generation": "v3",
            "tokenizer": "qwen2",
            "llm": self._llm(self._part("llm")),
            "flow": self._flow(self._part("flow")),
            "hift": self._hift(self._part("hift")),
            "mel": self._mel(self._part("feat_extractor")),
            "silent_tokens": SILENT_TOKENS_V3,
        }
        end_of_prompt = find_end_of_prompt_id(self.qwen_dir)
        if end_of_prompt is not None:
            data["end_of_prompt_id"] = end_of_prompt
        return cast(ModelConfig, ModelConfig.parse(data, str(self.path)))

    def _refuse_unknown_names(self) -> None:
        for tagged in walk_tagged(self.tree):
            if tagged.target not in _IGNORED and tagged.target not in _KNOWN:
                raise ConfigError(
                    f"{self.path}: !{tagged.kind}:{tagged.target} is not a part this version knows; "
                    f"known parts: {', '.join(sorted(_KNOWN))}"
                )

    def _part(self, key: str) -> Any:
        if key not in self.tree:
            raise ConfigError(f"{self.path}: the key {key!r} is missing; is this the YAML file of a released model?")
        return self.tree[key]

    def _arguments(self, value: Any, target: str, where: str) -> dict[str, Any]:
        """A fresh copy of the arguments of `value`, which has to be a `target`."""
        if not isinstance(value, Tagged) or value.target != target:
            found = f"!{value.kind}:{value.target}" if isinstance(value, Tagged) else repr(value)
            raise ConfigError(f"{self.path}: {where} is {found}, but a V3 model has {target} there")
        if not isinstance(value.arguments, (dict, type(None))):
            raise ConfigError(f"{self.path}: {where}: {target} needs named arguments")
        return dict(value.arguments or {})

    def _expect(self, arguments: dict[str, Any], where: str, **expected: Any) -> None:
        """Remove arguments that have only one supported value; refuse another."""
        for key, value in expected.items():
            if arguments.pop(key, value) != value:
                raise ConfigError(f"{self.path}: {where}.{key} must be {value!r} in a V3 model")

    def _llm(self, value: Any) -> dict[str, Any]:
        arguments = self._arguments(value, "cosyvoice.llm.llm.CosyVoice3LM", "llm")
        encoder = self._arguments(arguments.pop("llm", None), "cosyvoice.llm.llm.Qwen2Encoder", "llm.llm")
        encoder.pop("pretrain_path", None)
        qwen = read_qwen_geometry(self.qwen_dir)
        width = qwen["hidden_size"]
        self._expect(arguments, "llm", llm_input_size=width, llm_output_size=width)
        sampling = self._arguments(arguments.pop("sampling", None), _RAS, "llm.sampling")
        if "lsm_weight" in arguments:
            arguments["label_smoothing"] = arguments.pop("lsm_weight")
        return {**arguments, **{f"llm.llm.{key}": item for key, item in encoder.items()}, "qwen": qwen,
                "sampling": sampling}  # fmt: skip

    def _flow(self, value: Any) -> dict[str, Any]:
        arguments = self._arguments(value, "cosyvoice.flow.flow.CausalMaskedDiffWithDiT", "flow")
        mel_dim = arguments.pop("output_size", 80)
        self._expect(arguments, "flow", input_size=mel_dim, output_type="mel", only_mask_loss=True)
        lookahead = self._arguments(
            arguments.pop("pre_lookahead_layer", None),
            "cosyvoice.transformer.upsample_encoder.PreLookaheadLayer",
            "flow.pre_lookahead_layer",
        )
        length = arguments.get("pre_lookahead_len", 3)
        self._expect(lookahead, "flow.pre_lookahead_layer", in_channels=mel_dim, pre_lookahead_len=length)
        decoder = self._arguments(
            arguments.pop("decoder", None),
            "cosyvoice.flow.flow_matching.CausalConditionalCFM",
            "flow.decoder",
        )
        self._expect(decoder, "flow.decoder", n_spks=1, spk_emb_dim=mel_dim, in_channels=3 * mel_dim)
        estimator = self._arguments(
            decoder.pop("estimator", None), "cosyvoice.flow.DiT.dit.DiT", "flow.decoder.estimator"
        )
        cfm = self._cfm(decoder.pop("cfm_params", None))
        self._refuse_rest(decoder, "flow.decoder")
        if "spk_embed_dim" in arguments:
            arguments["speaker_embedding_dim"] = arguments.pop("spk_embed_dim")
        if "channels" in lookahead:
            arguments["pre_lookahead_channels"] = lookahead.pop("channels")
        self._refuse_rest(lookahead, "flow.pre_lookahead_layer")
        return {**arguments, "mel_dim": mel_dim, "cfm": cfm, "dit": self._dit(estimator)}

    def _cfm(self, value: Any) -> dict[str, Any]:
        outer = self._arguments(value, "omegaconf.DictConfig", "flow.decoder.cfm_params")
        content = dict(outer.pop("content", None) or {})
        self._refuse_rest(outer, "flow.decoder.cfm_params")
        # Named in the released files, read by nothing there.
        content.pop("reg_loss_type", None)
        return content

    def _dit(self, arguments: dict[str, Any]) -> dict[str, Any]:
        # Dropout concerns training only; a long skip would be another network.
        arguments.pop("dropout", None)
        self._expect(arguments, "flow.decoder.estimator", long_skip_connection=False)
        return arguments

    def _hift(self, value: Any) -> dict[str, Any]:
        arguments = self._arguments(value, "cosyvoice.hifigan.generator.CausalHiFTGenerator", "hift")
        istft = dict(arguments.pop("istft_params", None) or {})
        for theirs, ours in (("n_fft", "istft_n_fft"), ("hop_len", "istft_hop")):
            if theirs in istft:
                arguments[ours] = istft.pop(theirs)
        self._refuse_rest(istft, "hift.istft_params")
        predictor = self._arguments(
            arguments.pop("f0_predictor", None),
            "cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor",
            "hift.f0_predictor",
        )
        self._expect(predictor, "hift.f0_predictor", num_class=1, in_channels=arguments.get("in_channels", 80))
        if "cond_channels" in predictor:
            arguments["f0_channels"] = predictor.pop("cond_channels")
        self._refuse_rest(predictor, "hift.f0_predictor")
        return arguments

    def _mel(self, value: Any) -> dict[str, Any]:
        arguments = self._arguments(value, _MEL, "feat_extractor")
        self._expect(arguments, "feat_extractor", center=False)
        for theirs, ours in (("num_mels", "n_mels"), ("sampling_rate", "sample_rate")):
            if theirs in arguments:
                arguments[ours] = arguments.pop(theirs)
        return arguments

    def _refuse_rest(self, arguments: dict[str, Any], where: str) -> None:
        if arguments:
            raise ConfigError(f"{self.path}: {where}: unknown key {sorted(arguments)[0]!r}; remove it")


_RAS = "cosyvoice.utils.common.ras_sampling"
_KNOWN = frozenset(
    [
        _MEL,
        _RAS,
        "cosyvoice.llm.llm.CosyVoice3LM",
        "cosyvoice.llm.llm.Qwen2Encoder",
        "cosyvoice.flow.flow.CausalMaskedDiffWithDiT",
        "cosyvoice.flow.flow_matching.CausalConditionalCFM",
        "cosyvoice.flow.DiT.dit.DiT",
        "cosyvoice.transformer.upsample_encoder.PreLookaheadLayer",
        "omegaconf.DictConfig",
        "cosyvoice.hifigan.generator.CausalHiFTGenerator",
        "cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor",
    ]
)
