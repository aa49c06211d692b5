"""Parity of the language models in training: layouts, losses, preference pairs, and the text encoder from inside."""

from __future__ import annotations

import json
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cosyvoice.llm.dpo import dpo_loss
from cosyvoice.llm.kinds import AnySpeechLM
from cosyvoice.llm.layout import Kind, Row, SpecialTokens, choose_bistream
from cosyvoice.llm.qwen_speech_lm import QwenSpeechLM
from cosyvoice.llm.transformer_lm import TransformerLM
from cosyvoice.parity.report import Report

ENCODED_TEXT = ".text_encoder_out"


def check_text_encoder(model: AnySpeechLM, report: Report) -> None:
    """What the text encoder, where there is one, makes of the texts of `vN_llm`."""
    if not isinstance(model, TransformerLM):
        return
    for name in report.topic.tensors:
        if name.endswith(ENCODED_TEXT):
            case = name.removesuffix(ENCODED_TEXT)
            text = torch.tensor([report.ids(f"{case}.prompt_text") + report.ids(f"{case}.text")])
            with torch.inference_mode():
                report.compare(name, model.encode_text(text))


def check_training(model: AnySpeechLM, report: Report) -> None:
    """Everything of `vN_llm_train`."""
    report.settings(
        lsm_weight=model.config.label_smoothing,
        length_normalized_loss=model.config.length_normalized_loss,
        mix_ratio=getattr(model.config, "mix_ratio", None),
    )
    batch = _tensors(report, "batch.")
    speaker = batch.pop("embedding", None)
    for case, uniforms in report.options["random_values"].items():
        with torch.inference_mode():
            output = model(**batch, **_forward_options(model, batch, uniforms, speaker))
            packed = output.batch
            embedded = (
                (packed.kinds, packed.ids)
                if speaker is None or isinstance(model, QwenSpeechLM)
                else (packed.kinds, packed.ids, speaker)
            )
            report.compare(f"{case}.lm_input", model.embed(*embedded))
            logits = model.llm_decoder(output.hidden)
        report.exact(f"{case}.lm_input_len", packed.lengths)
        report.exact(f"{case}.lm_target", packed.targets)
        report.compare(f"{case}.loss", output.loss)
        report.compare(f"{case}.acc", output.accuracy)
        if f"{case}.logits" in report.topic:
            # What a padded position computes is nobody's concern.
            real = (packed.kinds != Kind.PAD).numpy()
            report.compare(f"{case}.logits", logits.numpy()[real], recorded=report.topic[f"{case}.logits"][real])
        layout = [
            [named(Row(Kind(kind), id_), model.special) for kind, id_ in zip(kinds, ids, strict=True) if kind]
            for kinds, ids in zip(packed.kinds.tolist(), packed.ids.tolist(), strict=True)
        ]
        report.settings(**{f"{case}_layout": layout})
    if "dpo.loss" in report.topic and isinstance(model, QwenSpeechLM):
        _pairs(model, batch, report)
    _preference_losses(report)


def _forward_options(
    model: AnySpeechLM, batch: dict[str, Tensor], uniforms: list[float], speaker: Tensor | None
) -> dict[str, Any]:
    """What a generation's forward takes beside texts and speech."""
    if not isinstance(model, QwenSpeechLM):
        return {"embedding": speaker}
    lengths = batch["text_token_len"].tolist(), batch["speech_token_len"].tolist()
    # One number was recorded for a batch whose items all drew the same.
    drawn = list(islice(cycle(uniforms), len(lengths[0])))
    return {"use_bistream": choose_bistream(*lengths, model.config.mix_ratio, drawn)}


def _pairs(model: QwenSpeechLM, batch: dict[str, Tensor], report: Report) -> None:
    rejected = _tensors(report, "dpo.reject_")
    with torch.inference_mode():
        output = model.forward_pairs(
            batch["text_token"],
            batch["text_token_len"],
            batch["speech_token"],
            batch["speech_token_len"],
            rejected["speech_token"],
            rejected["speech_token_len"],
            compat="released",
        )
    report.compare("dpo.loss", output.loss)
    report.compare("dpo.acc", output.accuracy)
    report.compare("dpo.chosen_logps", output.chosen_log_probs)
    report.compare("dpo.rejected_logps", output.rejected_log_probs)


def _preference_losses(report: Report) -> None:
    if "dpoloss.in.policy_chosen" not in report.topic:
        return
    names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    chosen, rejected, frozen_chosen, frozen_rejected = (
        torch.from_numpy(report.input(f"dpoloss.in.{name}")) for name in names
    )
    for name in [name for name in report.topic.tensors if name.startswith("dpoloss.") and name.endswith(".loss")]:
        settings = json.loads(report.topic.meta["tensors"][name]["desc"])
        output = dpo_loss(chosen, rejected, frozen_chosen, frozen_rejected, **settings)
        report.compare(name, output.loss)
        case = name.removesuffix(".loss")
        report.compare(f"{case}.chosen_reward", output.chosen_reward)
        report.compare(f"{case}.rejected_reward", output.rejected_reward)


def _tensors(report: Report, prefix: str) -> dict[str, Tensor]:
    """Recorded tensors to feed, by what follows `prefix` in their names."""
    names = [name for name in report.topic.tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): torch.from_numpy(np.array(report.input(name))) for name in names}


def named(row: Row, special: SpecialTokens) -> list[Any]:
    """A row as the recordings write it: `[kind, id]`, special rows by their name."""
    if row.kind != Kind.SPECIAL:
        return [row.kind.name.lower(), row.id]
    return ["sos" if row.id == special.sos else "task", row.id]
