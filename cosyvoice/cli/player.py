"""Playing through a program of the system that takes raw samples, so that no audio library is needed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cosyvoice.errors import MissingDependencyError, OutputError

if TYPE_CHECKING:
    import numpy as np

PROGRAMS: dict[str, tuple[str, ...]] = {
    "pw-play": ("--raw", "--format=s16", "--channels=1", "--rate={rate}", "-"),
    "paplay": ("--raw", "--format=s16le", "--channels=1", "--rate={rate}"),
    "aplay": ("-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", "{rate}", "-"),
    "play": ("-q", "-t", "raw", "-e", "signed", "-b", "16", "-c", "1", "-r", "{rate}", "-"),
    "ffplay": ("-v", "error", "-nodisp", "-autoexit", "-f", "s16le", "-ar", "{rate}", "-i", "-"),
}
"""In the order of preference, with arguments for mono 16-bit samples of {rate} Hz on standard input."""


class Sound:
    """A running player."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def write(self, samples: np.ndarray) -> None:
        """Play `samples` [time] in [-1, 1] behind what was written before. Raises `OutputError`."""
        import numpy as np

        data = (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()
        if self._process.stdin is None:
            return
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            raise OutputError(
                f"the player {self._process.args!r:.60} stopped; is there a sound device? write a file with -o"
            ) from None


@dataclass(frozen=True)
class Player:
    """A program that plays raw samples."""

    name: str
    path: str

    @contextmanager
    def open(self, sample_rate: int) -> Iterator[Sound]:
        """Start the program; leaving the block waits until all is played. Raises `OutputError` on failure."""
        arguments = [part.format(rate=sample_rate) for part in PROGRAMS[self.name]]
        process = subprocess.Popen(
            [self.path, *arguments], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield Sound(process)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.communicate()
        if process.returncode:
            raise OutputError(f"{self.name} could not play; is there a sound device? write a file with -o")


def find_player() -> Player:
    """The first player that is installed; raises `MissingDependencyError` where there is none."""
    for name in PROGRAMS:
        path = shutil.which(name)
        if path is not None:
            return Player(name, path)
    raise MissingDependencyError(
        f"there is no program to play with; install one of {', '.join(PROGRAMS)} (for example alsa-utils), "
        "or write a file with -o"
    )
