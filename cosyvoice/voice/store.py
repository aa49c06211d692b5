"""The voices at hand: presets that came with the model, and the user's own in a directory.

Own voices lie in `$COSYVOICE_HOME/voices` or `~/.cosyvoice/voices`, one file each, so they can be copied and
removed by hand as well. A preset is never overwritten or removed; its name is taken.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from cosyvoice.errors import OutputError, VoiceError
from cosyvoice.voice.voice import Voice

SUFFIX = ".safetensors"
_SAFE_NAME = re.compile(r"[^\W_][\w.-]{0,63}")


def default_directory() -> Path:
    """Where the user's voices lie."""
    home = os.environ.get("COSYVOICE_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cosyvoice") / "voices"


def check_name(name: str) -> str:
    """`name` itself; raises `VoiceError` where it cannot be a file name on every system."""
    if not _SAFE_NAME.fullmatch(name) or name.endswith("."):
        raise VoiceError(
            f"{name!r} cannot be the name of a voice; use up to 64 letters, digits, '-', '_' and '.', "
            "beginning with a letter or digit"
        )
    return name


class VoiceStore:
    """Voices by name.

    Args:
        directory: where voices are added; `default_directory()` by default. Made when it is first needed.
        presets: a directory of voices that are only read.
        built_in: further presets, which a model brings in another form than files of voices.
    """

    def __init__(
        self,
        directory: Path | None = None,
        presets: Path | None = None,
        built_in: Mapping[str, Voice] | None = None,
    ) -> None:
        self.directory = default_directory() if directory is None else Path(directory)
        self.presets = presets
        self.built_in = dict(built_in or {})

    def preset_names(self) -> list[str]:
        """Names of the presets, sorted."""
        return sorted({*_names(self.presets), *self.built_in})

    def own_names(self) -> list[str]:
        """Names of the user's voices, sorted."""
        return _names(self.directory)

    def names(self) -> list[str]:
        """All names, presets first."""
        presets = self.preset_names()
        return presets + [name for name in self.own_names() if name not in presets]

    def get(self, name: str) -> Voice:
        """The voice `name`. Raises `VoiceError` where there is none, or its file is damaged."""
        return self.built_in[name] if name in self.built_in else Voice.load(self._find(name))

    def add(self, voice: Voice, overwrite: bool = False) -> Path:
        """Store a voice under its name, complete or not at all.

        Raises `VoiceError` for an unsafe name or one that is taken, `OutputError` where it cannot be written.
        """
        path = self._own_path(voice.name)
        if voice.name in self.preset_names():
            raise VoiceError(f"{voice.name!r} is a voice of the model; choose another name")
        if path.exists() and not overwrite:
            raise VoiceError(f"there is a voice {voice.name!r} already; choose another name or overwrite it")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.directory} cannot be made ({error.strerror}); set COSYVOICE_HOME to another place"
            ) from None
        return voice.save(path)

    def remove(self, name: str) -> None:
        """Delete one of the user's voices. Raises `VoiceError` for a preset or an unknown name."""
        path = self._own_path(name)
        if name not in self.own_names():
            if name in self.preset_names():
                raise VoiceError(f"{name!r} came with the model and cannot be removed")
            raise self._unknown(name)
        try:
            path.unlink()
        except OSError as error:
            raise OutputError(f"{path} cannot be removed ({error.strerror}); check its permissions") from None

    def _own_path(self, name: str) -> Path:
        return self.directory / f"{check_name(name)}{SUFFIX}"

    def _find(self, name: str) -> Path:
        check_name(name)
        for directory in (self.presets, self.directory):
            if directory is not None and (directory / f"{name}{SUFFIX}").is_file():
                return directory / f"{name}{SUFFIX}"
        raise self._unknown(name)

    def _unknown(self, name: str) -> VoiceError:
        names = self.names()
        close = difflib.get_close_matches(name, names, n=1)
        if close:
            hint = f"did you mean {close[0]!r}?"
        elif names:
            hint = f"there are: {', '.join(names)}"
        else:
            hint = "there is none yet: make one with 'cosyvoice voices add NAME FILE'"
        return VoiceError(f"there is no voice {name!r}; {hint}")


def _names(directory: Path | None) -> list[str]:
    if directory is None or not directory.is_dir():
        return []
    return sorted(path.name.removesuffix(SUFFIX) for path in directory.glob(f"*{SUFFIX}") if path.name[0] != ".")
