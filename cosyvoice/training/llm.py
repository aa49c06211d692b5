"""Training of the language model: phones in, speech tokens out, with one attention head taught where to look.

Half of the items are two utterances of one speaker in a row, which is exactly what a zero-shot prompt looks like at
inference. The corpus knows which phone every speech token belongs to; one head of one layer learns to attend to it,
and the rest of the network learns to use that head, long before alignment would emerge by itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cosyvoice.engine.sampling import RASSampler, numpy_multinomial
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM
from cosyvoice.speech_tokenizer.model import SpeechTokenizer
from cosyvoice.text.phone_classes import PAUSE, phone_class
from cosyvoice.text.phones import PHONES, PhoneTokenizer
from cosyvoice.training.batching import LengthBatches, pad
from cosyvoice.training.edit_distance import edit_distance
from cosyvoice.training.features import FeatureStore, TokenStore, Utterance
from cosyvoice.training.loop import Context, adam, autocast, load_averaged, optimise
from cosyvoice.training.plots import plot_attention
from cosyvoice.training.settings import LLMSettings

TOKEN_SECONDS = 0.04
SHAPE_MULTIPLE = 8
SPOKEN_SENTENCES = 16
"""Validation sentences that are spoken freely and recognised by the tokenizer's own decoder."""


def spoken_positions(utterance: Utterance, tokens: int) -> np.ndarray:
    """For each speech token the index of the text token that is spoken in its middle; a pause is its boundary."""
    places = [i for i, symbol in enumerate(utterance.symbols) if symbol in PHONES]
    positions, next_phone = [], 0
    for name in utterance.phones:
        if name == PAUSE:
            positions.append(max(0, places[next_phone] - 1) if next_phone < len(places) else len(utterance.symbols) - 1)
        else:
            positions.append(places[next_phone])
            next_phone += 1
    centres = (np.arange(tokens) + 0.5) * TOKEN_SECONDS
    segment = np.searchsorted(np.asarray(utterance.phone_ends), centres, side="right")
    return np.asarray(positions)[np.minimum(segment, len(positions) - 1)]


class LLMTask:
    """See the module's description."""

    name = "llm"

    def __init__(
        self,
        settings: LLMSettings,
        store: FeatureStore,
        tokens: TokenStore,
        recogniser: SpeechTokenizer | None,
    ) -> None:
        self.settings, self.store, self.tokens, self.recogniser = settings, store, tokens, recogniser
        self.text = PhoneTokenizer()
        self.model = CosyVoice3LM(settings.model, end_of_prompt_id=None)
        self.model.initialize(torch.Generator().manual_seed(settings.loop.seed))
        self.optimizer = adam([self.model], settings.loop.rate, settings.loop.decay, betas=(0.9, 0.95))
        self.items, self.validation_items = store.split("train"), store.split("validation")
        self.by_speaker: dict[str, list[int]] = {}
        for i in self.items + self.validation_items:
            utterance = store.utterances[i]
            self.by_speaker.setdefault(utterance.split + utterance.speaker, []).append(i)
        lengths = [self._length(i) for i in self.items]
        # A pair is about twice as long as a single utterance, so the budget counts the mean item.
        self.batches = LengthBatches(
            lengths, int(settings.batch_tokens / (1 + settings.pair_share)), settings.loop.seed
        )

    def _length(self, item: int) -> int:
        utterance = self.store.utterances[item]
        return len(utterance.symbols) + len(self.tokens[utterance.id]) + 3

    def modules(self) -> dict[str, nn.Module]:
        return {"llm": self.model}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer]

    def _sequence(self, items: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Text ids, speech ids and spoken text positions of utterances said one after the other."""
        text: list[int] = []
        speech: list[np.ndarray] = []
        spoken: list[np.ndarray] = []
        for item in items:
            utterance = self.store.utterances[item]
            tokens = self.tokens[utterance.id].astype(np.int64)
            spoken.append(spoken_positions(utterance, len(tokens)) + len(text))
            speech.append(tokens)
            text += self.text.encode_phones(list(utterance.symbols))
        return np.asarray(text), np.concatenate(speech), np.concatenate(spoken)

    def _loss(self, sequences: list[tuple[np.ndarray, np.ndarray, np.ndarray]], context: Context) -> dict[str, Tensor]:
        device, settings = context.device, self.settings
        text, speech, spoken = ([s[k] for s in sequences] for k in range(3))
        lengths = torch.tensor([[len(t), len(s)] for t, s in zip(text, speech, strict=True)])
        layers = [settings.guide_layer] if settings.guide_weight else []
        with autocast(device, settings.loop.bf16):
            out = self.model(
                pad(text, SHAPE_MULTIPLE).to(device),
                lengths[:, 0].to(device),
                pad(speech, SHAPE_MULTIPLE).to(device),
                lengths[:, 1].to(device),
                use_bistream=[False] * len(text),
                return_attention_of=layers,
            )
        losses = {"loss": out.loss, "accuracy": out.accuracy.detach()}
        if layers:
            # Head 0, the rows that predict the speech tokens, the text columns.
            attention = out.attention[settings.guide_layer][:, 0]
            picked = []
            for row, (text_length, count), target in zip(attention, lengths.tolist(), spoken, strict=True):
                predicting = row[1 + text_length : 1 + text_length + count]
                columns = torch.from_numpy(target).to(device)[:, None] + 1
                picked.append(predicting.gather(1, columns))
            probability = torch.cat(picked)
            losses["guide"] = -torch.log(probability.clamp(min=1e-6)).mean()
            losses["attention"] = probability.detach().mean()
        return losses

    def step(self, context: Context) -> dict[str, float]:
        rng = np.random.default_rng([self.settings.loop.seed, context.step])
        sequences = []
        for place in self.batches.batch(context.step):
            item = self.items[place]
            group = [item]
            if rng.random() < self.settings.pair_share:
                speaker = self.store.utterances[item].speaker
                group.insert(0, int(rng.choice(self.by_speaker["train" + speaker])))
            sequences.append(self._sequence(group))
        losses = self._loss(sequences, context)
        total = losses["loss"] + self.settings.guide_weight * losses.get("guide", torch.zeros(()))
        norm = optimise(total, self.optimizer, self.settings.loop.clip)
        return {"norm": norm, **{name: float(value.detach()) for name, value in losses.items()}}

    def validate(self, context: Context) -> dict[str, float]:
        sums: dict[str, list[float]] = {}
        for start in range(0, len(self.validation_items), 12):
            sequences = [self._sequence([i]) for i in self.validation_items[start : start + 12]]
            for name, value in self._loss(sequences, context).items():
                sums.setdefault(name, []).append(float(value))
        scores = {name: float(np.mean(values)) for name, values in sums.items()}
        self._plot(context)
        if self.recogniser is not None:
            scores.update(self._speak(context))
        return scores

    def _speak(self, context: Context) -> dict[str, float]:
        """Speak sentences after a prompt of the same speaker; recognise the tokens with the tokenizer's decoder."""
        assert self.recogniser is not None
        recogniser = self.recogniser.to(context.device)
        spread = self.validation_items[:: max(1, len(self.validation_items) // SPOKEN_SENTENCES)]
        errors = phones = said = recorded = 0
        for number, item in enumerate(spread):
            utterance = self.store.utterances[item]
            others = [i for i in self.by_speaker["validation" + utterance.speaker] if i != item]
            prompt = self._sequence([others[number % len(others)]] if others else [])
            text = self.text.encode_phones(list(utterance.symbols))
            sampler = RASSampler(self.settings.model.sampling, numpy_multinomial(np.random.default_rng(number)))
            tokens = list(
                self.model.generate(
                    text, sampler, prompt_text=prompt[0].tolist(), prompt_speech_token=prompt[1].tolist()
                )
            )
            said += len(tokens)
            recorded += len(self.tokens[utterance.id])
            reference = [phone_class(p) + 1 for p in utterance.phones if p != PAUSE]
            heard = recognise_tokens(recogniser, tokens, context.device) if tokens else []
            errors += edit_distance(reference, heard)
            phones += len(reference)
        return {"spoken_error_rate": errors / phones, "length_ratio": said / recorded}

    def _plot(self, context: Context) -> None:
        item = self.validation_items[0]
        text, speech, _ = self._sequence([item])
        out = self.model(
            torch.from_numpy(text)[None].to(context.device),
            torch.tensor([len(text)], device=context.device),
            torch.from_numpy(speech)[None].to(context.device),
            torch.tensor([len(speech)], device=context.device),
            use_bistream=[False],
            return_attention_of=[self.settings.guide_layer],
        )
        attention = out.attention[self.settings.guide_layer][0, 0]
        rows = attention[1 + len(text) : 1 + len(text) + len(speech), 1 : 1 + len(text)]
        plot_attention(
            rows.float().cpu().numpy(), self.store.utterances[item].symbols, context.folder / "attention.png"
        )


@torch.no_grad()
def recognise_tokens(model: SpeechTokenizer, tokens: list[int], device: torch.device) -> list[int]:
    """Phone classes (1..) that the tokenizer's decoder reads in speech tokens, pauses left out."""
    ids = torch.tensor([[t for t in tokens if t < model.fsq.codebook_size]], device=device)
    if ids.shape[1] == 0:
        return []
    digits = (ids[..., None] // model.fsq.powers) % model.fsq.levels
    codes = digits.float() / model.fsq.steps - 1.0
    hidden = model.decode(codes, torch.tensor([ids.shape[1]], device=device))
    path = model.ctc_head(hidden)[0].argmax(-1).tolist()
    return [c for i, c in enumerate(path) if c > 1 and (i == 0 or path[i - 1] != c)]


def load_llm(run: Path, settings: LLMSettings) -> CosyVoice3LM:
    """The trained language model of a run folder, in evaluation mode."""
    model = CosyVoice3LM(settings.model, end_of_prompt_id=None)
    model.load_state_dict(load_averaged(run, "llm"))
    return model.eval()
