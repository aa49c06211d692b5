"""What programs written for the released package use of `model.frontend`: its speakers, its pieces of text, a switch.

The table is a view on the voices of a model, so a speaker that a program puts in, takes out or replaces is one that the
model speaks with from then on. Features of prompts are the business of the engine and have no counterpart here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cosyvoice.engine.frontends import ReleasedTextFrontend
from cosyvoice.engine.models import CosyVoiceModel
from cosyvoice.errors import VoiceError
from cosyvoice.voice.speaker_table import speakers_of_voices, voices_of_speakers
from cosyvoice.voice.voice import Voice

Entries = Mapping[str, Tensor]


class SpeakerEntries(MutableMapping[str, Entries]):
    """Speakers by name, each with its entries as `spk2info.pt` holds them.

    Args:
        voices: of the model by name, which the table shows and changes.
        model: whose tokenizer turns transcripts into the ids that a table holds.
    """

    def __init__(self, voices: dict[str, Voice], model: CosyVoiceModel) -> None:
        self._voices, self._model = voices, model

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        entries = speakers_of_voices([self.with_token_ids(name)])[name]
        return {entry: torch.from_numpy(np.array(value)) for entry, value in entries.items()}

    def __setitem__(self, name: str, entries: Entries) -> None:
        """Raises `VoiceError` for entries that are no speaker of this model."""
        arrays = {entry: np.asarray(value.detach().cpu()) for entry, value in entries.items()}
        voice = voices_of_speakers({name: arrays}, self._model.config)[0]
        self._model.check_voice(voice)
        self._voices[name] = voice

    def __delitem__(self, name: str) -> None:
        del self._voices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._voices)

    def __len__(self) -> int:
        return len(self._voices)

    def with_token_ids(self, name: str) -> Voice:
        """The speaker `name` with its transcript as ids. Raises `KeyError` where there is none."""
        voice = replace(self._voices[name], name=name)
        if not voice.transcript or len(voice.prompt_text_token):
            return voice
        ids = self._model.stages.text.encode_prompt(self._model.transcript_text(voice.transcript))
        return replace(voice, prompt_text_token=np.asarray(ids, np.int32))


@dataclass
class FrontEnd:
    """What a model shows of its frontend."""

    voices: dict[str, Voice]
    model: CosyVoiceModel
    device = torch.device("cpu")
    """Where tensors of speakers lie."""

    @property
    def instruct(self) -> bool:
        """Whether the model follows instructions."""
        return self.model.follows_instructions

    @property
    def spk2info(self) -> SpeakerEntries:
        """The table of speakers."""
        return SpeakerEntries(self.voices, self.model)

    @spk2info.setter
    def spk2info(self, speakers: Mapping[str, Entries]) -> None:
        """Take these speakers instead. Raises `VoiceError`, and keeps the old ones, where one of them is none."""
        fresh: dict[str, Voice] = {}
        table = SpeakerEntries(fresh, self.model)
        for name, entries in speakers.items():
            table[name] = entries
        self.voices.clear()
        self.voices.update(fresh)

    def text_normalize(
        self, text: str | Iterable[str], split: bool = True, text_frontend: bool = True
    ) -> list[str] | list[Iterable[str]] | str:
        """The pieces that `text` is spoken in, or with `split=False` the whole of it as it is read.

        Text that arrives, and with `text_frontend=False` any text, stays as it is. Raises `TextError` for text that
        cannot be spoken.
        """
        if not isinstance(text, str):
            return [text]
        frontend = self.model.stages.text
        if not text or not text_frontend:
            return [text] if split else text
        if split:
            return frontend.split(text)
        return frontend.normalise(text) if isinstance(frontend, ReleasedTextFrontend) else text

    def speaker(self, name: str) -> Voice:
        """The voice of a speaker. Raises `VoiceError` where there is none."""
        if name not in self.voices:
            there = f"there are: {', '.join(self.voices)}" if self.voices else "this model brings none"
            raise VoiceError(f"there is no speaker {name!r}; {there}; add_zero_shot_spk adds one of a recording")
        return self.voices[name]
