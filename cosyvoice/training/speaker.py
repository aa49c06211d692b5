"""Training of the speaker encoder, and embeddings of the whole corpus by the trained one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyvoice.speaker_encoder.model import AngularMargin, SpeakerEncoder
from cosyvoice.training.batching import pad
from cosyvoice.training.features import FeatureStore, TokenStore
from cosyvoice.training.loop import Context, adam, autocast, load_averaged, optimise
from cosyvoice.training.settings import SpeakerSettings

FRAME_RATE = 100
HELD_OUT = ("validation", "test")


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> float:
    """The rate at which misses and false alarms are equal, from the scores of like and unlike pairs."""
    thresholds = np.sort(np.concatenate([same, different]))
    misses = np.searchsorted(np.sort(same), thresholds, side="left") / len(same)
    alarms = 1.0 - np.searchsorted(np.sort(different), thresholds, side="left") / len(different)
    best = int(np.argmin(np.abs(misses - alarms)))
    return float((misses[best] + alarms[best]) / 2)


class SpeakerTask:
    """Classifies the training speakers from short crops; scored on speakers it never heard."""

    name = "speaker"

    def __init__(self, settings: SpeakerSettings, store: FeatureStore) -> None:
        self.settings, self.store = settings, store
        self.items = store.split("train")
        names = sorted({store.utterances[i].speaker for i in self.items})
        self.speakers = {name: number for number, name in enumerate(names)}
        self.by_speaker: dict[int, list[int]] = {number: [] for number in self.speakers.values()}
        for i in self.items:
            self.by_speaker[self.speakers[store.utterances[i].speaker]].append(i)
        self.model = SpeakerEncoder(settings.model)
        self.head = AngularMargin(settings.model.embedding_dim, len(names))
        self.optimizer = adam([self.model, self.head], settings.loop.rate, settings.loop.decay)

    def modules(self) -> dict[str, nn.Module]:
        return {"speaker_encoder": self.model, "head": self.head}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer]

    def _crop(self, item: int, rng: np.random.Generator) -> np.ndarray:
        fbank = self.store.get("fbank", item).astype(np.float32)
        frames = int(self.settings.crop_seconds * FRAME_RATE)
        if len(fbank) < frames:
            fbank = np.tile(fbank, (-(-frames // len(fbank)), 1))
        start = int(rng.integers(0, len(fbank) - frames + 1))
        crop = fbank[start : start + frames]
        return crop - crop.mean(axis=0)

    def step(self, context: Context) -> dict[str, float]:
        rng = np.random.default_rng([self.settings.loop.seed, context.step])
        # Every speaker is as likely as any other: the base voices say far more than the warped ones.
        labels = rng.integers(0, len(self.speakers), self.settings.batch)
        items = [int(rng.choice(self.by_speaker[label])) for label in labels.tolist()]
        crops = pad([self._crop(i, rng) for i in items]).to(context.device)
        with autocast(context.device, self.settings.loop.bf16):
            embedding = self.model(crops)
        target = torch.from_numpy(labels).to(context.device)
        loss, cosine = self.head(embedding.float(), target)
        norm = optimise(loss, self.optimizer, self.settings.loop.clip)
        accuracy = float((cosine.argmax(1) == target).float().mean())
        return {"loss": float(loss.detach()), "accuracy": accuracy, "norm": norm}

    def validate(self, context: Context) -> dict[str, float]:
        items = [i for split in HELD_OUT for i in self.store.split(split)]
        names = [self.store.utterances[i].speaker for i in items]
        embeddings = F.normalize(embed(self.model, self.store, items, context.device))
        scores = (embeddings @ embeddings.T).numpy()
        alike = np.array([[a == b for b in names] for a in names])
        upper = np.triu(np.ones_like(alike), 1)
        return {"equal_error_rate": equal_error_rate(scores[alike & upper], scores[~alike & upper])}


@torch.no_grad()
def embed(model: SpeakerEncoder, store: FeatureStore, items: list[int], device: torch.device) -> Tensor:
    """Embeddings [items, embedding_dim] of whole utterances."""
    rows = []
    for i in items:
        fbank = torch.from_numpy(store.get("fbank", i).astype(np.float32))
        rows.append(model((fbank - fbank.mean(0))[None].to(device))[0].float().cpu())
    return torch.stack(rows)


def load_speaker_encoder(run: Path, settings: SpeakerSettings) -> SpeakerEncoder:
    """The trained encoder of a run folder, in evaluation mode."""
    model = SpeakerEncoder(settings.model)
    model.load_state_dict(load_averaged(run, "speaker_encoder"))
    return model.eval()


def embed_corpus(model: SpeakerEncoder, store: FeatureStore, device: torch.device) -> TokenStore:
    """The embedding [1, embedding_dim] of every utterance."""
    rows = embed(model.to(device), store, list(range(len(store))), device).numpy()
    return TokenStore({u.id: row[None] for u, row in zip(store.utterances, rows, strict=True)})
