"""Trains the letter-to-sound model on the shipped lexicon and writes its weights for NumPy.

Run as `python -m cosyvoice.training.letter_to_sound`; it needs the `torch` extra and some ten minutes of
one core. One word in twenty is held out by a hash of its spelling, so that every training holds out the
same words; the report counts errors on all of them, those that the alignment cannot explain included.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cosyvoice.text.letter_to_sound import (
    BOUNDARY_ID,
    CONTEXT,
    LETTERS,
    MAX_STRESS_COUNT,
    MODEL_FILE,
    LetterToSound,
    letter_ids,
    stressed_vowels,
)
from cosyvoice.text.lexicon import Lexicon
from cosyvoice.training.edit_distance import edit_distance
from cosyvoice.training.letter_alignment import LetterAligner

logger = logging.getLogger(__name__)

HELD_OUT_ONE_IN = 20


@dataclass(frozen=True)
class LetterToSoundConfig:
    """Sizes and schedule. Chunks of fewer letters than `rarest_chunk` are not learnt."""

    embedding: int = 64
    channels: int = 128
    blocks: int = 3
    taps: int = 5
    chunk_embedding: int = 32
    hidden: int = 128
    dropout: float = 0.1
    rarest_chunk: int = 90
    epochs: int = 6
    batch_words: int = 96
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """A word as letter ids and, letter by letter, chunk numbers."""

    letters: list[int]
    chunks: list[int]


@dataclass(frozen=True)
class Report:
    """Errors on held-out words: phone error rate (edits over phones) and share of words right."""

    words: int
    phone_error_rate: float
    phone_error_rate_without_stress: float
    word_accuracy: float
    word_accuracy_without_stress: float


class LetterToSoundNet(nn.Module):
    """The trainable twin of `cosyvoice.text.letter_to_sound.LetterToSound`, over batches of words."""

    def __init__(self, config: LetterToSoundConfig, chunks: Sequence[str]) -> None:
        super().__init__()
        padding = config.taps // 2
        self.chunks = list(chunks)
        self.embedding = nn.Embedding(1 + len(LETTERS), config.embedding, padding_idx=BOUNDARY_ID)
        self.entry = nn.Conv1d(config.embedding, config.channels, config.taps, padding=padding)
        self.norms = nn.ModuleList(nn.LayerNorm(config.channels) for _ in range(config.blocks))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.channels, config.channels, config.taps, padding=padding) for _ in range(config.blocks)
        )
        self.chunk_embedding = nn.Embedding(len(chunks) + 1, config.chunk_embedding)
        self.stress_embedding = nn.Embedding(MAX_STRESS_COUNT + 1, config.chunk_embedding)
        width = config.channels + (CONTEXT + 1) * config.chunk_embedding
        self.hidden = nn.Linear(width, config.hidden)
        self.output = nn.Linear(config.hidden, len(chunks))
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, letters: Tensor) -> Tensor:
        """Letter ids [batch, letters] of words of one length -> features [batch, letters, channels]."""
        embedded = self.dropout(self.embedding(letters))
        hidden = self.entry(embedded.transpose(1, 2)).transpose(1, 2)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            update = convolution(norm(hidden).transpose(1, 2)).transpose(1, 2)
            hidden = hidden + self.dropout(functional.relu(update))
        return hidden

    def forward(self, letters: Tensor, chunks: Tensor, stresses: Tensor) -> Tensor:
        """Logits [batch, letters, chunks]; the true `chunks` and counts of `stresses` are given."""
        none = torch.full_like(chunks[:, :1], len(self.chunks))
        padded = torch.cat([none] * CONTEXT + [chunks], dim=1)
        history = [self.chunk_embedding(padded[:, i : i + chunks.shape[1]]) for i in range(CONTEXT)]
        state = torch.cat([self.encode(letters), *history, self.stress_embedding(stresses)], dim=-1)
        logits: Tensor = self.output(self.dropout(functional.relu(self.hidden(state))))
        return logits

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights in half precision under the names that the NumPy model reads, and the chunks."""
        named: dict[str, Any] = {
            "embedding": self.embedding.weight,
            "entry.weight": self.entry.weight,
            "entry.bias": self.entry.bias,
            "chunk_embedding": self.chunk_embedding.weight,
            "stress_embedding": self.stress_embedding.weight,
            "hidden.weight": self.hidden.weight,
            "hidden.bias": self.hidden.bias,
            "output.weight": self.output.weight,
            "output.bias": self.output.bias,
        }
        for index, (norm, convolution) in enumerate(zip(self.norms, self.convolutions, strict=True)):
            named |= {
                f"blocks.{index}.scale": norm.weight,
                f"blocks.{index}.shift": norm.bias,
                f"blocks.{index}.weight": convolution.weight,
                f"blocks.{index}.bias": convolution.bias,
            }
        halves = {name: tensor.detach().numpy().astype(np.float16) for name, tensor in named.items()}
        return {"chunks": np.array(self.chunks), **halves}


def is_held_out(word: str) -> bool:
    return zlib.crc32(word.encode()) % HELD_OUT_ONE_IN == 0


def letter_words(lexicon: Lexicon) -> list[str]:
    """The lexicon's words that are made of letters alone, at least two of them."""
    return [word for word in lexicon.words() if re.fullmatch("[a-z]{2,}", word)]


def align_lexicon(lexicon: Lexicon, words: Sequence[str], rarest_chunk: int) -> tuple[list[Example], list[str]]:
    """Examples for the words that align without rare chunks, and the chunks, the silent one first."""
    pronunciations = [lexicon.get(word) or [] for word in words]
    bases = sorted({phone.rstrip("01") for phones in pronunciations for phone in phones})
    base_ids = {base: index for index, base in enumerate(bases)}
    spellings = [letter_ids(word) for word in words]
    unstressed = [[base_ids[phone.rstrip("01")] for phone in phones] for phones in pronunciations]
    aligner = LetterAligner(1 + len(LETTERS), len(bases))
    aligner.fit(spellings, unstressed)
    chunked = {
        index: [" ".join(pronunciations[index][start:end]) for start, end in spans]
        for index, spans in aligner.align(spellings, unstressed).items()
    }
    counts = Counter(chunk for chunks in chunked.values() for chunk in chunks)
    kept = ["", *sorted(chunk for chunk, count in counts.items() if chunk and count >= rarest_chunk)]
    chunk_ids = {chunk: index for index, chunk in enumerate(kept)}
    examples = [
        Example(spellings[index], [chunk_ids[chunk] for chunk in chunks])
        for index, chunks in chunked.items()
        if all(chunk in chunk_ids for chunk in chunks)
    ]
    return examples, kept


def train(examples: Sequence[Example], chunks: Sequence[str], config: LetterToSoundConfig) -> LetterToSoundNet:
    """Cross-entropy with teacher forcing, AdamW, a learning rate that falls to zero along a half cosine."""
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = LetterToSoundNet(config, chunks)
        optimiser = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        batches = _batches(examples, chunks, config.batch_words)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, config.learning_rate, total_steps=config.epochs * len(batches), pct_start=0.1
        )
        for epoch in range(config.epochs):
            total = 0.0
            for index in torch.randperm(len(batches), generator=generator).tolist():
                letters, targets, stresses = batches[index]
                loss = functional.cross_entropy(net(letters, targets, stresses).flatten(0, 1), targets.flatten())
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += float(loss.detach())
            logger.info("epoch %d: loss %.4f", epoch + 1, total / len(batches))
    return net.eval()


def _batches(
    examples: Sequence[Example], chunks: Sequence[str], batch_words: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of words of one length: letters, chunks, stresses so far, each [words, letters]."""
    stressed = np.array([stressed_vowels(chunk) for chunk in chunks])
    batches = []
    for length in sorted({len(example.letters) for example in examples}):
        group = [example for example in examples if len(example.letters) == length]
        for start in range(0, len(group), batch_words):
            part = group[start : start + batch_words]
            targets = np.array([example.chunks for example in part])
            before = np.cumsum(stressed[targets], axis=1) - stressed[targets]
            letters = torch.tensor([example.letters for example in part])
            stresses = torch.from_numpy(np.minimum(before, MAX_STRESS_COUNT))
            batches.append((letters, torch.from_numpy(targets), stresses))
    return batches


def evaluate(model: LetterToSound, lexicon: Lexicon, words: Sequence[str]) -> Report:
    """Compares the model's pronunciations of `words` with the lexicon's."""
    phones = edits = edits_without = right = right_without = 0
    for word in words:
        truth, said = lexicon.get(word) or [], model.pronounce(word)
        distance = edit_distance(truth, said)
        distance_without = edit_distance([p.rstrip("01") for p in truth], [p.rstrip("01") for p in said])
        phones += len(truth)
        edits += distance
        edits_without += distance_without
        right += distance == 0
        right_without += distance_without == 0
    count = len(words)
    return Report(count, edits / phones, edits_without / phones, right / count, right_without / count)


def build_model(target: Path, config: LetterToSoundConfig) -> Report:
    """Aligns, trains, writes the weights to `target` and evaluates what was written on the held-out words."""
    lexicon = Lexicon()
    words = letter_words(lexicon)
    examples, chunks = align_lexicon(lexicon, [word for word in words if not is_held_out(word)], config.rarest_chunk)
    logger.info("%d words aligned, %d chunks", len(examples), len(chunks))
    net = train(examples, chunks, config)
    arrays: dict[str, Any] = net.arrays()
    np.savez_compressed(target, **arrays)
    return evaluate(LetterToSound(target), lexicon, [word for word in words if is_held_out(word)])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    logger.info("%s", build_model(MODEL_FILE, LetterToSoundConfig()))
