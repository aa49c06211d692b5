"""The learned letter-to-sound model: pronunciations of words that no lexicon has, in NumPy.

A stack of convolutions reads the letters of the whole word; then, letter by letter, a small readout
chooses the letter's chunk of zero to two phones, given the two chunks before it and how many stressed
vowels the word has so far (which is what keeps stress consistent). Beam search takes the likeliest
sequence. The weights ship as half-precision arrays of 0.6 megabytes; nothing but NumPy runs them.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosyvoice.errors import ModelError, TextError

MODEL_FILE = Path(__file__).parent / "data" / "letter_to_sound.npz"

Floats = NDArray[np.float32]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BOUNDARY_ID = 0
"""Letter id beyond the ends of a word."""
MAX_STRESS_COUNT = 2
CONTEXT = 2
"""Chunks before the current one that the readout sees."""
_LAYER_NORM_EPSILON = 1e-5
_BEAM = 4


def letter_ids(word: str) -> list[int]:
    """1 to 26 for a to z. Raises TextError for any other character."""
    foreign = sorted(set(word) - set(LETTERS))
    if foreign or not word:
        raise TextError(f"'{word}' has characters other than a to z: fold accents and drop marks before")
    return [1 + LETTERS.index(letter) for letter in word]


def stressed_vowels(chunk: str) -> int:
    """How many phones of a chunk such as 'Y UW1' are stressed vowels."""
    return chunk.count("1")


@dataclass(frozen=True)
class _Hypothesis:
    score: float
    chunks: tuple[int, ...]
    stresses: int


class LetterToSound:
    """Word -> phones. The weights are read at the first word."""

    def __init__(self, path: Path = MODEL_FILE) -> None:
        self._path = path
        self._weights: dict[str, Floats] = {}
        self._chunks: list[str] = []

    def pronounce(self, word: str) -> list[str]:
        """Phones of a lower-case word of the letters a to z.

        Raises TextError for other characters and ModelError for a missing or damaged weight file.
        """
        ids = letter_ids(word)
        self._load()
        chunks = self._beam_search(self.encode(ids))
        return [phone for chunk in chunks for phone in self._chunks[chunk].split()]

    def encode(self, ids: list[int]) -> Floats:
        """Letter ids [letters] -> features [letters, channels]."""
        self._load()
        weights = self._weights
        hidden = _convolve(weights["embedding"][ids], weights["entry.weight"], weights["entry.bias"])
        block = 0
        while f"blocks.{block}.weight" in weights:
            name = f"blocks.{block}"
            normed = _layer_norm(hidden, weights[f"{name}.scale"], weights[f"{name}.shift"])
            update = _convolve(normed, weights[f"{name}.weight"], weights[f"{name}.bias"])
            hidden = hidden + np.maximum(update, 0.0)
            block += 1
        return hidden

    def readout(self, features: Floats, previous: tuple[int, ...], stresses: int) -> Floats:
        """Log probabilities of the chunks of one letter from its features [channels].

        `previous` holds the last `CONTEXT` chunks, the latest last; the number of chunks stands for "none".
        """
        weights = self._weights
        history = [weights["chunk_embedding"][chunk] for chunk in previous]
        state = np.concatenate([features, *history, weights["stress_embedding"][stresses]])
        hidden = np.maximum(weights["hidden.weight"] @ state + weights["hidden.bias"], 0.0)
        logits = weights["output.weight"] @ hidden + weights["output.bias"]
        shifted = logits - logits.max()
        return shifted - np.log(np.exp(shifted).sum())

    def _beam_search(self, features: Floats) -> tuple[int, ...]:
        none = len(self._chunks)
        beam = [_Hypothesis(0.0, (), 0)]
        for row in features:
            grown: list[_Hypothesis] = []
            for kept in beam:
                previous = ((none,) * CONTEXT + kept.chunks)[-CONTEXT:]
                scores = self.readout(row, previous, kept.stresses)
                for chunk in np.argsort(scores)[-_BEAM:].tolist():
                    stresses = min(MAX_STRESS_COUNT, kept.stresses + stressed_vowels(self._chunks[chunk]))
                    grown.append(_Hypothesis(kept.score + float(scores[chunk]), (*kept.chunks, chunk), stresses))
            beam = sorted(grown, key=lambda hypothesis: -hypothesis.score)[:_BEAM]
        # A word of consonants may come out empty; the best sequence that says something wins.
        return next((kept.chunks for kept in beam if any(self._chunks[c] for c in kept.chunks)), beam[0].chunks)

    def _load(self) -> None:
        if self._weights:
            return
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                chunks = [str(chunk) for chunk in arrays["chunks"]]
                weights = {name: arrays[name].astype(np.float32) for name in arrays.files if name != "chunks"}
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(
                f"the letter-to-sound weights {self._path} cannot be read ({error}): reinstall the package"
            ) from error
        self._chunks, self._weights = chunks, weights


def _convolve(inputs: Floats, weight: Floats, bias: Floats) -> Floats:
    """Same-length convolution: [letters, in] with weight [out, in, taps] -> [letters, out]."""
    out_channels, _, taps = weight.shape
    reach = taps // 2
    padded = np.pad(inputs, ((reach, reach), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=0)
    return windows.reshape(len(inputs), -1) @ weight.reshape(out_channels, -1).T + bias


def _layer_norm(inputs: Floats, scale: Floats, shift: Floats) -> Floats:
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    return centred / np.sqrt(variance + _LAYER_NORM_EPSILON) * scale + shift
