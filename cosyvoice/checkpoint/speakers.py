"""Built-in and saved speakers of a released model in a safetensors file, so that no reader needs PyTorch for them.

A tensor is named by its entry and the number of its speaker; the names of the speakers, which may hold any character,
are in the metadata of the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosyvoice.checkpoint.tensor_file import TensorFile, write_tensors
from cosyvoice.errors import ModelError

SPEAKERS_FILE = "speakers.safetensors"
_NAMES = "speakers"
Speakers = Mapping[str, Mapping[str, NDArray[Any]]]
"""Names of speakers to the entries of each, as `spk2info.pt` holds them."""


def write_speakers(path: Path, speakers: Speakers) -> None:
    """Write `speakers`, their entries as they are. Raises `OutputError` where that cannot be done."""
    tensors = {
        f"{index}.{entry}": value for index, entries in enumerate(speakers.values()) for entry, value in entries.items()
    }
    write_tensors(path, tensors, {_NAMES: json.dumps(list(speakers), ensure_ascii=False)})


def read_speakers(path: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """The speakers of a file that `write_speakers` made. Raises `ModelError` for any other."""
    file = TensorFile(path, cure="convert the model again")
    try:
        names = [str(name) for name in json.loads(file.metadata[_NAMES])]
        speakers: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in names}
        for tensor in file:
            index, entry = tensor.split(".", 1)
            speakers[names[int(index)]][entry] = np.array(file.map(tensor))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ModelError(f"{path} holds no table of speakers ({error!r}); convert the model again") from None
    return speakers
