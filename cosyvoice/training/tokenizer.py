"""Training of the speech tokenizer through recognition, and tokens of the whole corpus by the trained one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from cosyvoice.speech_tokenizer.model import LABELS_PER_TOKEN, SpeechTokenizer
from cosyvoice.text.phone_classes import PAUSE, phone_class
from cosyvoice.training.batching import LengthBatches, pad
from cosyvoice.training.edit_distance import edit_distance
from cosyvoice.training.features import FeatureStore, TokenStore
from cosyvoice.training.loop import Context, adam, autocast, load_averaged, optimise
from cosyvoice.training.plots import plot_mels
from cosyvoice.training.settings import TokenizerSettings

LABEL_RATE = 50
SHAPE_MULTIPLE = 32
"""Feature frames; lengths are rounded up to it."""
WEIGHTS = {"ctc": 0.5, "phone": 1.0, "voicing": 0.5, "f0": 0.7, "energy": 0.5, "mel": 0.5}
IGNORED = -100


class TokenizerTask:
    """See the module's description."""

    name = "tokenizer"

    def __init__(self, settings: TokenizerSettings, store: FeatureStore) -> None:
        self.settings, self.store = settings, store
        self.model = SpeechTokenizer(settings.model)
        self.optimizer = adam([self.model], settings.loop.rate, settings.loop.decay)
        self.train_items, self.validation_items = store.split("train"), store.split("validation")
        lengths = [len(store.get("whisper", i)) for i in self.train_items]
        self.batches = LengthBatches(lengths, int(settings.batch_seconds * 100), settings.loop.seed)

    def modules(self) -> dict[str, nn.Module]:
        return {"tokenizer": self.model}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer]

    def _targets(self, item: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Frame classes, CTC classes, prosody [frames, 3] and mel of an utterance, all at 50 Hz."""
        utterance = self.store.utterances[item]
        mel = self.store.get("mel", item).astype(np.float32)
        centres = (np.arange(len(mel)) + 0.5) / LABEL_RATE
        segment = np.searchsorted(np.asarray(utterance.phone_ends), centres, side="right")
        segment = np.minimum(segment, len(utterance.phones) - 1)
        classes = np.array([phone_class(p) if p != PAUSE else 0 for p in utterance.phones])
        spoken = classes[[p != PAUSE for p in utterance.phones]]
        f0 = self.store.get("f0", item)
        voiced = f0 > 0
        log_f0 = np.zeros(len(f0), np.float32)
        if voiced.any():
            # Relative to the speaker's own pitch: tokens carry the melody, not the voice.
            values = np.log(f0[voiced])
            log_f0[voiced] = (values - values.mean()) / 0.25
        energy = mel.mean(axis=1)
        energy = (energy - energy.mean()) / 2.0
        frames = min(len(mel), len(f0))
        prosody = np.stack([voiced[:frames], log_f0[:frames], energy[:frames]], axis=1).astype(np.float32)
        return classes[segment], spoken + 1, prosody, mel

    def _batch(self, items: list[int], context: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        device = context.device
        feats = [self.store.get("whisper", i) for i in items]
        x = pad([f.astype(np.float32) for f in feats], SHAPE_MULTIPLE).transpose(1, 2)
        labels = x.shape[2] // 4 * LABELS_PER_TOKEN
        lengths = torch.tensor([len(f) for f in feats])
        targets = [self._targets(i) for i in items]
        frames = min(labels, 10**9)

        def fit(arrays: list[np.ndarray], value: float) -> Tensor:
            out = pad([a[:frames] for a in arrays], 1, value)
            return F.pad(out, (0, 0) * (out.ndim - 2) + (0, frames - out.shape[1]), value=value)

        mels = [t[3] for t in targets]
        voice = torch.from_numpy(np.stack([np.concatenate([m.mean(0), m.std(0)]) for m in mels])).float()
        inputs = {"feats": x, "lengths": lengths, "voice": (voice + 5.0) / 5.0}
        goals = {
            "phone": fit([t[0] for t in targets], IGNORED),
            "ctc": pad([t[1] for t in targets]),
            "ctc_lengths": torch.tensor([len(t[1]) for t in targets]),
            "prosody": fit([t[2] for t in targets], 0.0),
            "mel": fit(mels, 0.0),
            "frames": torch.tensor([min(len(t[2]), frames) for t in targets]),
        }
        return {k: v.to(device) for k, v in inputs.items()}, {k: v.to(device) for k, v in goals.items()}

    def _losses(self, inputs: dict[str, Tensor], goals: dict[str, Tensor], context: Context) -> dict[str, Tensor]:
        with autocast(context.device, self.settings.loop.bf16):
            out = self.model(**inputs)
        valid = torch.arange(goals["mel"].shape[1], device=context.device)[None] < goals["frames"][:, None]
        voiced = valid & (goals["prosody"][..., 0] > 0)
        prosody = out.prosody.float()
        log_probs = F.log_softmax(out.ctc_logits.float(), -1).transpose(0, 1)
        return {
            "ctc": F.ctc_loss(
                log_probs,
                goals["ctc"],
                goals["frames"],
                goals["ctc_lengths"],
                reduction="mean",
                zero_infinity=True,
            ),
            "phone": F.cross_entropy(
                out.phone_logits.float().transpose(1, 2), goals["phone"].long(), ignore_index=IGNORED
            ),
            "voicing": F.binary_cross_entropy_with_logits(prosody[..., 0][valid], goals["prosody"][..., 0][valid]),
            "f0": (prosody[..., 1] - goals["prosody"][..., 1]).abs()[voiced].mean(),
            "energy": (prosody[..., 2] - goals["prosody"][..., 2]).abs()[valid].mean(),
            "mel": (out.mel.float() - (goals["mel"] + 5.0) / 5.0).abs()[valid].mean(),
        }

    def step(self, context: Context) -> dict[str, float]:
        items = [self.train_items[i] for i in self.batches.batch(context.step)]
        losses = self._losses(*self._batch(items, context), context)
        total = sum((WEIGHTS[name] * value for name, value in losses.items()), start=torch.zeros(()))
        norm = optimise(total, self.optimizer, self.settings.loop.clip)
        return {
            "loss": float(total.detach()),
            "norm": norm,
            **{k: float(v.detach()) for k, v in losses.items()},
        }

    def validate(self, context: Context) -> dict[str, float]:
        errors = phones = correct = frames = 0
        used: list[np.ndarray] = []
        sums: dict[str, float] = {}
        chunks = [self.validation_items[i : i + 16] for i in range(0, len(self.validation_items), 16)]
        for items in chunks:
            inputs, goals = self._batch(items, context)
            for key, value in self._losses(inputs, goals, context).items():
                sums[key] = sums.get(key, 0.0) + float(value) / len(chunks)
            heard = self.model.recognise(inputs["feats"], inputs["lengths"])
            for row, count, said in zip(goals["ctc"].tolist(), goals["ctc_lengths"].tolist(), heard, strict=True):
                # A pause is a class of the frames, never of the reference.
                said = [c for c in said if c != 1]
                errors += edit_distance(row[:count], said)
                phones += count
            ids = self.model.encode(inputs["feats"], inputs["lengths"])
            counts = self.model.token_lengths(inputs["lengths"]).tolist()
            used += [row[:n] for row, n in zip(ids.cpu().numpy(), counts, strict=True)]
            out = self.model(**inputs)
            best, target = out.phone_logits.argmax(-1), goals["phone"]
            correct += int(((best == target) & (target != IGNORED)).sum())
            frames += int((target != IGNORED).sum())
        histogram = np.bincount(np.concatenate(used), minlength=self.model.fsq.codebook_size).astype(float)
        share = histogram[histogram > 0] / histogram.sum()
        inputs, goals = self._batch(self.validation_items[:1], context)
        out = self.model(**inputs)
        count = int(goals["frames"][0])
        shown = {"recorded": goals["mel"][0, :count], "from tokens": out.mel[0, :count].float() * 5.0 - 5.0}
        plot_mels({k: v.cpu().numpy() for k, v in shown.items()}, context.folder / "mel.png")
        return {
            **sums,
            "phone_error_rate": errors / phones,
            "frame_accuracy": correct / frames,
            "codes_used": float((histogram > 0).sum()),
            "perplexity": float(np.exp(-(share * np.log(share)).sum())),
        }


def load_tokenizer(run: Path, settings: TokenizerSettings) -> SpeechTokenizer:
    """The trained tokenizer of a run folder, in evaluation mode."""
    model = SpeechTokenizer(settings.model)
    model.load_state_dict(load_averaged(run, "tokenizer"))
    return model.eval()


@torch.no_grad()
def tokenise_corpus(model: SpeechTokenizer, store: FeatureStore, device: torch.device) -> TokenStore:
    """Speech tokens of every utterance; two mel frames each, so the last odd frame has none."""
    model.to(device)
    order = sorted(range(len(store)), key=lambda i: len(store.get("whisper", i)))
    tokens: dict[str, np.ndarray] = {}
    batches = [order[i : i + 16] for i in range(0, len(order), 16)]
    for items in track(batches, description="speech tokens"):
        feats = [store.get("whisper", i).astype(np.float32) for i in items]
        lengths = torch.tensor([len(f) for f in feats], device=device)
        ids = model.encode(pad(feats, SHAPE_MULTIPLE).transpose(1, 2).to(device), lengths).cpu().numpy()
        for row, item in zip(ids, items, strict=True):
            count = len(store.get("mel", item)) // 2
            tokens[store.utterances[item].id] = row[:count].astype(np.int16)
    return TokenStore({u.id: tokens[u.id] for u in store.utterances})
