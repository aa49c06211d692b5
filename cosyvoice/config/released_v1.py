"""`cosyvoice.yaml`: the first generation, with text tokens of whisper and networks that see both sides."""

from __future__ import annotations

from typing import Any

from cosyvoice.config.released_parts import (
    CONFORMER,
    DICT_CONFIG,
    F0_PREDICTOR,
    HIFT,
    MEL,
    RAS,
    ReleasedYaml,
)

_LLM = "cosyvoice.llm.llm.TransformerLM"
_TRANSFORMER = "cosyvoice.transformer.encoder.TransformerEncoder"
_FLOW = "cosyvoice.flow.flow.MaskedDiffWithXvec"
_REGULATOR = "cosyvoice.flow.length_regulator.InterpolateRegulator"
_CFM = "cosyvoice.flow.flow_matching.ConditionalCFM"
_UNET = "cosyvoice.flow.decoder.ConditionalDecoder"
_TOKENIZER = "whisper.tokenizer.get_tokenizer"
# Mel frames of a streamed chunk that the vocoder computes again for the next; fixed in the released implementation.
_JOINT_FRAMES = 20
# Nothing in the files says what a model was trained to do; the release tells by the name of the directory as well.
_INSTRUCT_MARK = "-Instruct"


class ReleasedV1(ReleasedYaml):
    """Translates `cosyvoice.yaml`."""

    generation = "v1"
    known = frozenset(
        [
            MEL, RAS, DICT_CONFIG, CONFORMER, HIFT, F0_PREDICTOR, _LLM, _TRANSFORMER, _FLOW, _REGULATOR, _CFM, _UNET,
            _TOKENIZER,
        ]
    )  # fmt: skip

    def model(self) -> dict[str, Any]:
        """See `ReleasedYaml`."""
        self._tokenizer()
        return {
            "name": "cosyvoice",
            "generation": "v1",
            "tokenizer": "whisper",
            "llm": self._llm(self.part("llm")),
            "flow": self._flow(self.part("flow")),
            "hift": self.non_causal_hift(self.part("hift"), _JOINT_FRAMES),
            "mel": self.mel(self.part("feat_extractor")),
            "end_of_prompt_id": None,
            "follows_instructions": _INSTRUCT_MARK in str(self.path.parent.absolute()),
        }

    def _tokenizer(self) -> None:
        arguments = self.arguments(self.part("get_tokenizer"), _TOKENIZER, "get_tokenizer")
        self.require(arguments, "get_tokenizer", multilingual=True, num_languages=100)
        # They choose the marks that start a transcription, which a text to be spoken does not have.
        for key in ("language", "task"):
            arguments.pop(key, None)
        self.refuse_rest(arguments, "get_tokenizer")

    def _llm(self, value: Any) -> dict[str, Any]:
        arguments = self.arguments(value, _LLM, "llm")
        text_encoder = self.encoder(arguments.pop("text_encoder", None), CONFORMER, "llm.text_encoder")
        decoder = self.encoder(arguments.pop("llm", None), _TRANSFORMER, "llm.llm", layer="transformer")
        self.must_hold(arguments, "llm", ("text_token_size", "speech_token_size"))
        self.require(
            arguments, "llm", text_encoder_input_size=text_encoder["input_size"],
            llm_input_size=decoder["input_size"], llm_output_size=decoder["output_size"],
        )  # fmt: skip
        arguments["sampling"] = self.arguments(arguments.pop("sampling", None), RAS, "llm.sampling")
        self.rename(arguments, lsm_weight="label_smoothing", spk_embed_dim="speaker_embedding_dim")
        return {**arguments, "kind": "transformer", "text_encoder": text_encoder, "llm": decoder}

    def _flow(self, value: Any) -> dict[str, Any]:
        arguments = self.arguments(value, _FLOW, "flow")
        mel_dim = arguments.pop("output_size", 80)
        encoder = self.encoder(arguments.pop("encoder", None), CONFORMER, "flow.encoder")
        self.expect(arguments, "flow", input_size=encoder["input_size"], output_type="mel", only_mask_loss=True)
        # Arguments of the released class that it reads for nothing.
        for key in ("decoder_conf", "mel_feat_conf"):
            arguments.pop(key, None)
        regulator = self.arguments(arguments.pop("length_regulator", None), _REGULATOR, "flow.length_regulator")
        self.must_hold(regulator, "flow.length_regulator", ("sampling_ratios",))
        ratios = regulator.pop("sampling_ratios")
        self.require(regulator, "flow.length_regulator", channels=mel_dim)
        self.expect(regulator, "flow.length_regulator", out_channels=mel_dim, groups=1)
        self.refuse_rest(regulator, "flow.length_regulator")
        estimator, cfm = self.flow_decoder(arguments.pop("decoder", None), _CFM, mel_dim)
        self.rename(arguments, spk_embed_dim="speaker_embedding_dim")
        return {
            **arguments,
            "kind": "masked_diff",
            "mel_dim": mel_dim,
            "encoder": encoder,
            # The released class counts the ratios; their values play no part.
            "regulator_layers": len(ratios) if isinstance(ratios, list) else ratios,
            "cfm": cfm,
            "unet": self.unet(estimator, _UNET, mel_dim, causal=False),
        }
