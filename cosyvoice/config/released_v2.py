"""`cosyvoice2.yaml`: the second generation, a Qwen2 language model and a causal U-Net."""

from __future__ import annotations

from typing import Any

from cosyvoice.config.released_parts import (
    DICT_CONFIG,
    F0_PREDICTOR,
    HIFT,
    MEL,
    QWEN_ENCODER,
    QWEN_TOKENIZER,
    RAS,
    ReleasedYaml,
)

_LLM = "cosyvoice.llm.llm.Qwen2LM"
_FLOW = "cosyvoice.flow.flow.CausalMaskedDiffWithXvec"
_ENCODER = "cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder"
_CFM = "cosyvoice.flow.flow_matching.CausalConditionalCFM"
_UNET = "cosyvoice.flow.decoder.CausalConditionalDecoder"
# Behind the V speech tokens: eos, an unused id, and the fill token of text streaming.
_EXTRA_TOKENS = 3
# Mel frames of a streamed chunk that the vocoder computes again for the next; fixed in the released implementation.
_JOINT_FRAMES = 8


class ReleasedV2(ReleasedYaml):
    """Translates `cosyvoice2.yaml`."""

    generation = "v2"
    known = frozenset(
        [MEL, RAS, DICT_CONFIG, QWEN_ENCODER, QWEN_TOKENIZER, HIFT, F0_PREDICTOR, _LLM, _FLOW, _ENCODER, _CFM, _UNET]
    )

    def model(self) -> dict[str, Any]:
        """See `ReleasedYaml`."""
        self.qwen_tokenizer("cosyvoice2")
        return {
            "name": "cosyvoice2",
            "generation": "v2",
            "tokenizer": "qwen2",
            "llm": {
                **self.qwen_lm(self.part("llm"), _LLM),
                "task_embedding": True,
                "speech_extra_tokens": _EXTRA_TOKENS,
            },
            "flow": self._flow(self.part("flow")),
            "hift": self.non_causal_hift(self.part("hift"), _JOINT_FRAMES),
            "mel": self.mel(self.part("feat_extractor")),
            # This generation knows the mark and needs none.
            "end_of_prompt_id": None,
        }

    def _flow(self, value: Any) -> dict[str, Any]:
        arguments = self.arguments(value, _FLOW, "flow")
        mel_dim = arguments.pop("output_size", 80)
        encoder = self.encoder(arguments.pop("encoder", None), _ENCODER, "flow.encoder")
        self.expect(arguments, "flow", input_size=encoder["input_size"], output_type="mel", only_mask_loss=True)
        for key in ("decoder_conf", "mel_feat_conf"):
            arguments.pop(key, None)
        estimator, cfm = self.flow_decoder(arguments.pop("decoder", None), _CFM, mel_dim)
        self.rename(arguments, spk_embed_dim="speaker_embedding_dim")
        return {
            **arguments,
            "kind": "causal_masked_diff",
            "mel_dim": mel_dim,
            "encoder": encoder,
            "cfm": cfm,
            "unet": self.unet(estimator, _UNET, mel_dim, causal=True),
        }
