"""A voice: everything the model needs to speak as somebody, as one safetensors file.

The file holds three tensors, a fourth for some, and, in its metadata, the words that belong to them; nothing is ever
unpickled.
The mel is half precision in memory as on disk, so that a voice speaks the same samples before and after it is
saved.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cosyvoice.audio.io import write_bytes_atomically
from cosyvoice.errors import VoiceError

FORMAT = "cosyvoice-voice-1"
_TENSORS = ("speech_token", "mel", "speaker_embedding")
_OPTIONAL_TENSORS = ("prompt_text_token",)


def _no_tokens() -> NDArray[np.int32]:
    return np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class Voice:
    """The conditions of speech in somebody's voice, made from a few seconds of reference audio.

    Raises `VoiceError` where shapes or types do not fit; arrays are converted where nothing is lost by it.
    """

    name: str
    speech_token: NDArray[np.int32]
    """Speech tokens of the reference [tokens]."""
    mel: NDArray[np.float16]
    """Log-mel of the reference [frames, n_mels], cut to the tokens."""
    speaker_embedding: NDArray[np.float32]
    """[speaker_embedding_dim], usually 192."""
    transcript: str = ""
    """What the reference says; empty where that is not known, and the voice is then used across languages."""
    gender: str = ""
    description: str = ""
    consent: str = ""
    """Who allowed the use of this voice, and for what."""
    provenance: str = ""
    """Where the reference came from and what made the voice of it."""
    model: str = ""
    """Name of the model that the tokens belong to; empty where that is not known."""
    prompt_text_token: NDArray[np.int32] = field(default_factory=_no_tokens)
    """Token ids [tokens] of what the reference says, in place of `transcript` where only they are known."""

    def __post_init__(self) -> None:
        tokens, text_tokens = np.asarray(self.speech_token), np.asarray(self.prompt_text_token)
        mel, embedding = np.asarray(self.mel), np.asarray(self.speaker_embedding)
        if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
            raise VoiceError(f"voice {self.name!r}: speech tokens must be whole numbers [tokens]; make it again")
        if text_tokens.ndim != 1 or not np.issubdtype(text_tokens.dtype, np.integer):
            raise VoiceError(f"voice {self.name!r}: text tokens must be whole numbers [tokens]; make it again")
        if mel.ndim != 2 or not np.issubdtype(mel.dtype, np.floating):
            raise VoiceError(f"voice {self.name!r}: the mel must be [frames, n_mels]; make the voice again")
        if embedding.ndim != 1 or not np.issubdtype(embedding.dtype, np.floating) or embedding.size == 0:
            raise VoiceError(f"voice {self.name!r}: the speaker embedding must be a vector; make the voice again")
        if not (np.isfinite(mel).all() and np.isfinite(embedding).all()):
            raise VoiceError(f"voice {self.name!r} holds values that are not finite; make it again")
        for name, value in (("speech_token", tokens.astype(np.int32)), ("mel", mel.astype(np.float16)),
                            ("speaker_embedding", embedding.astype(np.float32)),
                            ("prompt_text_token", text_tokens.astype(np.int32))):  # fmt: skip
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    def to_bytes(self) -> bytes:
        """The voice as the content of a safetensors file."""
        words = {name: getattr(self, name) for name in _word_fields()}
        held = [*_TENSORS, *(name for name in _OPTIONAL_TENSORS if len(getattr(self, name)))]
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in held}
        return save(tensors, metadata={"format": FORMAT, "voice": json.dumps(words, ensure_ascii=False)})

    def save(self, path: str | Path) -> Path:
        """Write the voice to `path`, complete or not at all. Raises `OutputError`."""
        path = Path(path)
        write_bytes_atomically(path, self.to_bytes())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Voice:
        """Read a voice. Raises `VoiceError` for a missing, damaged or foreign file."""
        path = Path(path)
        if not path.is_file():
            raise VoiceError(f"the voice file {path} does not exist; check the path")
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata: dict[str, str] = dict(file.metadata() or {})
                names = set(file.keys())
                tensors = {name: file.get_tensor(name) for name in (*_TENSORS, *_OPTIONAL_TENSORS) if name in names}
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise VoiceError(f"{path} is no intact voice file ({error}); copy it again") from None
        if metadata.get("format") != FORMAT or not tensors.keys() >= set(_TENSORS):
            raise VoiceError(f"{path} is a safetensors file but not a voice; make one with 'cosyvoice voices add'")
        words: dict[str, Any] = _read_words(metadata.get("voice", ""), path)
        return cls(**tensors, **words)


def _word_fields() -> list[str]:
    return [item.name for item in fields(Voice) if item.name not in (*_TENSORS, *_OPTIONAL_TENSORS)]


def _read_words(text: str, path: Path) -> dict[str, str]:
    """The descriptive fields; keys of later versions are passed over."""
    try:
        data = json.loads(text)
        words = {name: data[name] for name in _word_fields() if name in data}
    except (ValueError, TypeError) as error:
        raise VoiceError(f"the description in {path} is damaged ({error}); make the voice again") from None
    if not isinstance(words.get("name"), str) or not all(isinstance(word, str) for word in words.values()):
        raise VoiceError(f"the description in {path} is damaged; make the voice again")
    return words
