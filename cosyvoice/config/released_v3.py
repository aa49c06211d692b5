"""`cosyvoice3.yaml`: the third generation, a diffusion transformer and a causal vocoder."""

from __future__ import annotations

from typing import Any

from cosyvoice.config.qwen_files import find_end_of_prompt_id
from cosyvoice.config.released_parts import DICT_CONFIG, MEL, QWEN_ENCODER, QWEN_TOKENIZER, RAS, ReleasedYaml

# The released command line thins out long runs of these tokens, which sound like silence.
SILENT_TOKENS = (1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323)

_LLM = "cosyvoice.llm.llm.CosyVoice3LM"
_FLOW = "cosyvoice.flow.flow.CausalMaskedDiffWithDiT"
_LOOKAHEAD = "cosyvoice.transformer.upsample_encoder.PreLookaheadLayer"
_CFM = "cosyvoice.flow.flow_matching.CausalConditionalCFM"
_DIT = "cosyvoice.flow.DiT.dit.DiT"
_HIFT = "cosyvoice.hifigan.generator.CausalHiFTGenerator"
_F0_PREDICTOR = "cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor"


class ReleasedV3(ReleasedYaml):
    """Translates `cosyvoice3.yaml`."""

    generation = "v3"
    known = frozenset(
        [
            MEL, RAS, DICT_CONFIG, QWEN_ENCODER, QWEN_TOKENIZER, _LLM, _FLOW, _LOOKAHEAD, _CFM, _DIT, _HIFT,
            _F0_PREDICTOR,
        ]
    )  # fmt: skip

    def model(self) -> dict[str, Any]:
        """See `ReleasedYaml`."""
        self.qwen_tokenizer("cosyvoice3")
        data: dict[str, Any] = {
            "name": "cosyvoice3",
            "generation": "v3",
            "tokenizer": "qwen2",
            "llm": self.qwen_lm(self.part("llm"), _LLM),
            "flow": self._flow(self.part("flow")),
            "hift": self.hift(self.part("hift"), _HIFT, _F0_PREDICTOR),
            "mel": self.mel(self.part("feat_extractor")),
            "silent_tokens": SILENT_TOKENS,
        }
        end_of_prompt = find_end_of_prompt_id(self.qwen_dir)
        if end_of_prompt is not None:
            data["end_of_prompt_id"] = end_of_prompt
        return data

    def _flow(self, value: Any) -> dict[str, Any]:
        arguments = self.arguments(value, _FLOW, "flow")
        mel_dim = arguments.pop("output_size", 80)
        self.expect(arguments, "flow", input_size=mel_dim, output_type="mel", only_mask_loss=True)
        where = "flow.pre_lookahead_layer"
        lookahead = self.arguments(arguments.pop("pre_lookahead_layer", None), _LOOKAHEAD, where)
        length = arguments.get("pre_lookahead_len", 3)
        self.expect(lookahead, where, in_channels=mel_dim, pre_lookahead_len=length)
        if "channels" in lookahead:
            arguments["pre_lookahead_channels"] = lookahead.pop("channels")
        self.refuse_rest(lookahead, where)
        estimator, cfm = self.flow_decoder(arguments.pop("decoder", None), _CFM, mel_dim)
        self.rename(arguments, spk_embed_dim="speaker_embedding_dim")
        return {**arguments, "mel_dim": mel_dim, "cfm": cfm, "dit": self._dit(estimator)}

    def _dit(self, value: Any) -> dict[str, Any]:
        where = "flow.decoder.estimator"
        arguments = self.arguments(value, _DIT, where)
        # Dropout concerns training only; a long skip would be another network.
        arguments.pop("dropout", None)
        self.expect(arguments, where, long_skip_connection=False)
        return arguments
