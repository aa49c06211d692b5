"""Training of the flow on speech tokens, speaker embeddings and mels of the corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from cosyvoice.flow.batch import FlowBatch, TrainingDraws
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.training.batching import LengthBatches, pad
from cosyvoice.training.features import FeatureStore, TokenStore
from cosyvoice.training.loop import Context, adam, autocast, load_averaged, optimise
from cosyvoice.training.plots import plot_mels
from cosyvoice.training.settings import FlowSettings

SHAPE_MULTIPLE = 8
"""Tokens; lengths are rounded up to it."""
VALIDATION_BATCHES = 8


class FlowTask:
    """See the module's description."""

    name = "flow"

    def __init__(self, settings: FlowSettings, store: FeatureStore, tokens: TokenStore, speakers: TokenStore) -> None:
        self.settings, self.store, self.tokens, self.speakers = settings, store, tokens, speakers
        self.model = CausalMaskedDiffWithDiT(settings.model)
        self.optimizer = adam([self.model], settings.loop.rate, settings.loop.decay)
        self.items, self.validation_items = store.split("train"), store.split("validation")
        self.by_speaker: dict[str, list[int]] = {}
        for i, utterance in enumerate(store.utterances):
            self.by_speaker.setdefault(utterance.speaker, []).append(i)
        lengths = [2 * len(tokens[store.utterances[i].id]) for i in self.items]
        self.batches = LengthBatches(lengths, settings.batch_frames, settings.loop.seed)

    def modules(self) -> dict[str, nn.Module]:
        return {"flow": self.model}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer]

    def _embedding(self, item: int, rng: np.random.Generator) -> np.ndarray:
        """An embedding of the speaker: half of the time from another recording, so that it holds no words."""
        if rng.random() < 0.5:
            item = int(rng.choice(self.by_speaker[self.store.utterances[item].speaker]))
        return self.speakers[self.store.utterances[item].id][0]

    def _batch(self, items: list[int], rng: np.random.Generator, device: torch.device) -> FlowBatch:
        tokens = [self.tokens[self.store.utterances[i].id].astype(np.int64) for i in items]
        token = pad(tokens, SHAPE_MULTIPLE)
        frames = token.shape[1] * self.settings.model.token_mel_ratio
        mel = torch.zeros(len(items), frames, self.settings.model.mel_dim)
        lengths = torch.tensor([len(t) for t in tokens])
        for row, item, count in zip(mel, items, (2 * lengths).tolist(), strict=True):
            row[:count] = torch.from_numpy(self.store.get("mel", item)[:count].astype(np.float32))
        embedding = torch.from_numpy(np.stack([self._embedding(i, rng) for i in items])).float()
        return FlowBatch(token, lengths, mel, 2 * lengths, embedding).to(device)

    def _loss(self, items: list[int], seed: list[int], context: Context, generator: torch.Generator) -> torch.Tensor:
        batch = self._batch(items, np.random.default_rng(seed), context.device)
        draws = TrainingDraws.sample(batch, generator)
        with autocast(context.device, self.settings.loop.bf16):
            return self.model(batch, draws)["loss"]

    def step(self, context: Context) -> dict[str, float]:
        items = [self.items[i] for i in self.batches.batch(context.step)]
        loss = self._loss(items, [self.settings.loop.seed, context.step], context, context.generator)
        norm = optimise(loss, self.optimizer, self.settings.loop.clip)
        return {"loss": float(loss.detach()), "norm": norm}

    def validate(self, context: Context) -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        items = self.validation_items
        groups = [items[i::VALIDATION_BATCHES] for i in range(VALIDATION_BATCHES)]
        losses = [float(self._loss(g, [0, n], context, generator)) for n, g in enumerate(groups) if g]
        self._plot(items[0], context)
        return {"loss": float(np.mean(losses))}

    def _plot(self, item: int, context: Context) -> None:
        """A validation sentence spoken from its own tokens, its first quarter given as prompt."""
        batch = self._batch([item], np.random.default_rng(0), context.device)
        prompt = int(batch.token_len[0]) // 4
        tokens = batch.token[:, : int(batch.token_len[0])]
        mel = self.model.inference(
            tokens[:, prompt:], tokens[:, :prompt], batch.mel[:, : 2 * prompt], batch.speaker_embedding
        )
        recorded = batch.mel[0, 2 * prompt : 2 * tokens.shape[1]]
        shown = {"recorded": recorded.cpu().numpy(), "flow": mel[0].T.float().cpu().numpy()}
        plot_mels(shown, context.folder / "mel.png")


def load_flow(run: Path, settings: FlowSettings) -> CausalMaskedDiffWithDiT:
    """The trained flow of a run folder, in evaluation mode."""
    model = CausalMaskedDiffWithDiT(settings.model)
    model.load_state_dict(load_averaged(run, "flow"))
    return model.eval()
