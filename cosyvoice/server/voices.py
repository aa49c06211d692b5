"""Voices of a server: presets, uploads, and the references of single requests.

Uploads lie in one directory, a file each, which any number of server processes share: a lock file orders their
changes, and what is kept in memory is checked against the file each time, so a voice that one process deletes is gone
in all of them. A voice is uploaded with consent and provenance, or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cosyvoice.engine.alignment import HEARD
from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.stages import FloatArray
from cosyvoice.errors import OutputError, VoiceError
from cosyvoice.server.errors import UNPROCESSABLE, RequestError
from cosyvoice.server.settings import Settings
from cosyvoice.server.uploads import decode_upload
from cosyvoice.voice.store import SUFFIX, VoiceStore, check_name
from cosyvoice.voice.voice import Voice

OPENAI_VOICES = {
    "alloy": "female", "ash": "male", "ballad": "male", "coral": "female", "echo": "male", "fable": "male",
    "onyx": "male", "nova": "female", "sage": "female", "shimmer": "female", "verse": "male", "marin": "female",
    "cedar": "male",
}  # fmt: skip
"""Names that clients of OpenAI know, and the gender of the preset that answers to them."""
_DOUBT = "ref_text does not seem to be what the recording says; compare them, and upload the voice again"
_LEFTOVER_SECONDS = 600
"""Temporary files older than this belong to nobody who still writes."""


@dataclass(frozen=True)
class Reference:
    """A recording that a request brings along."""

    audio: bytes
    """A file."""
    transcript: str = ""


@dataclass(frozen=True)
class Upload:
    """A voice that a client wants to keep."""

    name: str
    reference: Reference
    consent: str
    """Who allowed the use of this voice, and for what."""
    provenance: str
    """Where the recording came from."""
    description: str = ""
    gender: str = ""


@dataclass(frozen=True)
class Added:
    """A voice that is kept now."""

    voice: Voice
    size: int
    """Bytes of its file."""
    warnings: list[str]
    """What its owner should look at."""


_FileKey = tuple[str, int, int, int]
"""Name, inode, time and size of the file of a voice: another one of the same name has another key."""


class ServerVoices:
    """Safe from many threads, and beside other processes.

    Args:
        tts: the loaded model, which encodes references.
        settings: of the server.
        count: told of each voice that was needed, whether it was in memory.
    """

    def __init__(self, tts: TTS, settings: Settings, count: Callable[[bool], None] = lambda _: None) -> None:
        self._tts, self._limits, self._count = tts, settings.limits, count
        directory, own = settings.voices_directory, tts.store
        self._store = own if directory is None else VoiceStore(directory, own.presets, own.built_in)
        self._lock = threading.Lock()
        self._cache: OrderedDict[object, Voice] = OrderedDict()
        self._used: dict[_FileKey, tuple[FloatArray, float]] = {}
        """Speaker embeddings of the uploads that this process has made or spoken with, and when it did last."""
        self.aliases = {**self._openai_aliases(), **settings.voice_aliases}
        self._remove_leftovers()

    def names(self) -> list[str]:
        """Presets, then uploads."""
        return self._store.names()

    def uploaded(self) -> list[str]:
        """Names of the voices that can be deleted."""
        return self._store.own_names()

    def uploads(self) -> list[tuple[Voice, int]]:
        """Uploaded voices with the sizes of their files; one that is damaged or just deleted is left out."""
        found = []
        for name in self.uploaded():
            with contextlib.suppress(VoiceError, OSError):
                found.append((self._store.get(name), self.size_of(name)))
        return found

    def size_of(self, name: str) -> int:
        """Bytes of the file of an uploaded voice."""
        return self._path(name).stat().st_size

    def canonical(self, name: str | None) -> str:
        """The voice that `name` means; None: the first. Raises `RequestError` (404) where there is none."""
        names = self.names()
        if name is None and names:
            return names[0]
        if name in names:
            return str(name)
        alias = self.aliases.get(name or "") or self.aliases.get((name or "").lower())
        if alias in names:
            return str(alias)
        raise RequestError(_unknown(name, names), status=404, param="voice", code="voice_not_found")

    def get(self, name: str | None) -> Voice:
        """A voice by name or alias. Raises `RequestError` (404), or `VoiceError` for a damaged file."""
        canonical = self.canonical(name)
        if canonical in self._store.built_in:
            return self._store.built_in[canonical]
        key = self._file_key(canonical)
        if key is None:
            raise RequestError(_unknown(name, self.names()), status=404, param="voice", code="voice_not_found")
        voice = self._cached(key, lambda: self._store.get(canonical))
        self._note_use(key, voice)
        return voice

    def from_reference(self, reference: Reference) -> Voice:
        """A voice for one request. Raises `AudioError` and `VoiceError` as `TTS.clone`, `RequestError` for its size."""
        digest = hashlib.sha256(reference.audio).hexdigest()
        return self._cached((digest, reference.transcript), lambda: self._encode("reference", reference))

    def add(self, upload: Upload) -> Added:
        """Keep a voice, complete or not at all.

        Raises `RequestError` for missing consent or provenance, a name that is taken (409) and full limits (507 is no
        fault of the client, so 409 as well), `SeveralSpeakersError` for a recording of several people; otherwise as
        `from_reference`.
        """
        for field in ("consent", "provenance"):
            if not getattr(upload, field).strip():
                raise RequestError(
                    f"the {field} of a voice is missing; say "
                    + ("who allowed its use, and for what" if field == "consent" else "where the recording came from"),
                    status=UNPROCESSABLE, param=field, code="missing_required_parameter",
                )  # fmt: skip
        name = check_name(upload.name)
        with self._changing():
            self._check_free(name)
        samples, rate = decode_upload(upload.reference.audio, self._limits)
        voice = self._tts.clone((samples, rate), upload.reference.transcript, name=name)
        # Of a recording that is known to be one.
        self._tts.check_one_speaker(samples, rate)
        score = self._tts.transcript_score(samples, rate, voice.transcript)
        voice = replace(
            voice,
            consent=upload.consent.strip(),
            provenance=f"{upload.provenance.strip()}; {voice.provenance}",
            description=upload.description.strip(),
            gender=upload.gender.strip(),
        )
        size = len(voice.to_bytes())
        with self._changing():
            self._check_free(name)
            self._check_space(size)
            path = self._store.add(voice)
            _flush(path)
            key = self._file_key(name)
        if key is not None:
            self._note_use(key, voice)
        return Added(voice, size, [] if score is None or score >= HEARD else [_DOUBT])

    def remove(self, name: str) -> None:
        """Delete an uploaded voice from the disk and from memory. Raises `RequestError` (404, 403)."""
        if name in self._store.preset_names() or name in self.aliases:
            raise RequestError(
                f"{name!r} came with the model and cannot be deleted", status=403, param="name", code="preset_voice"
            )
        with self._changing():
            if name not in self._store.own_names():
                raise RequestError(_unknown(name, self.names()), status=404, param="name", code="voice_not_found")
            self._store.remove(name)
            _flush(self._store.directory)
        self.forget_deleted()

    def forget_deleted(self) -> None:
        """Drop what this process keeps in memory of uploads that are deleted, whoever deleted them.

        Called after each request, since one that spoke with the voice meanwhile leaves something behind, and every few
        seconds for what other processes delete.
        """
        with self._lock:
            used = dict(self._used)
        for key, (embedding, latest) in used.items():
            if self._file_key(key[0]) == key:
                continue
            with self._lock:
                if time.monotonic() - latest > self._limits.request_seconds:
                    self._used.pop(key, None)  # nobody who began then still speaks
                alike = [other for other, voice in self._cache.items()
                         if other == key or np.array_equal(voice.speaker_embedding, embedding)]  # fmt: skip
                for other in alike:
                    del self._cache[other]
            self._tts.forget(embedding)

    def _encode(self, name: str, reference: Reference) -> Voice:
        samples, rate = decode_upload(reference.audio, self._limits)
        return self._tts.clone((samples, rate), reference.transcript, name=name)

    def _cached(self, key: object, make: Callable[[], Voice]) -> Voice:
        with self._lock:
            voice = self._cache.get(key)
            if voice is not None:
                self._cache.move_to_end(key)
        self._count(voice is not None)
        if voice is None:
            voice = make()
            with self._lock:
                self._cache[key] = voice
                while len(self._cache) > self._limits.voice_cache:
                    self._cache.popitem(last=False)
        return voice

    def _note_use(self, key: _FileKey, voice: Voice) -> None:
        if key[0] not in self._store.preset_names():
            with self._lock:
                self._used[key] = voice.speaker_embedding, time.monotonic()

    def _file_key(self, name: str) -> _FileKey | None:
        """None where the file is gone."""
        try:
            status = self._path(name).stat()
        except OSError:
            return None
        return name, status.st_ino, status.st_mtime_ns, status.st_size

    def _path(self, name: str) -> Path:
        presets = self._store.presets
        if presets is not None and name in self._store.preset_names():
            return presets / f"{name}{SUFFIX}"
        return self._store.directory / f"{name}{SUFFIX}"

    def _check_free(self, name: str) -> None:
        if name in self.names() or name.lower() in self.aliases:
            raise RequestError(
                f"there is a voice {name!r} already; choose another name, or delete it first",
                status=409, param="name", code="voice_exists",
            )  # fmt: skip
        self._check_space(0)

    def _check_space(self, size: int) -> None:
        files = list(self._store.directory.glob(f"*{SUFFIX}")) if self._store.directory.is_dir() else []
        if len(files) >= self._limits.voices:
            raise RequestError(
                f"there are {len(files)} voices, no more are kept; delete one first", status=409, code="too_many_voices"
            )
        used = sum(file.stat().st_size for file in files)
        if used + size > self._limits.voices_bytes:
            raise RequestError(
                f"the voices take {used} bytes, no more are kept; delete one first", status=409, code="no_space"
            )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One change of the directory at a time, among threads and processes; ends with the process that holds it."""
        try:
            self._store.directory.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._store.directory / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise OutputError(
                f"{self._store.directory} cannot be written ({error.strerror}); set another directory for voices"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _remove_leftovers(self) -> None:
        """Files that an upload left which was killed; voices themselves appear whole or not at all."""
        if not self._store.directory.is_dir():
            return
        for file in self._store.directory.glob(f".*{SUFFIX}.*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > _LEFTOVER_SECONDS:
                    file.unlink()

    def _openai_aliases(self) -> dict[str, str]:
        """OpenAI's names spread over the presets of the same gender, the same ones each time."""
        genders: dict[str, list[str]] = {"female": [], "male": []}
        presets = self._store.preset_names()
        for name in presets:
            with contextlib.suppress(VoiceError):
                genders.setdefault(self._store.get(name).gender, []).append(name)
        given: dict[str, int] = {}
        aliases = {}
        for alias, gender in OPENAI_VOICES.items():
            choice = genders[gender] or presets
            if choice:
                aliases[alias] = choice[given.get(gender, 0) % len(choice)]
                given[gender] = given.get(gender, 0) + 1
        return aliases


def _unknown(name: str | None, names: Sequence[str]) -> str:
    if name is None:
        return "this model brings no voice; send ref_audio, or upload a voice"
    there = ", ".join(names[:20]) if names else "none yet"
    return f"there is no voice {name[:64]!r}; there are: {there}"


def _flush(path: Path) -> None:
    """Make a change last through a loss of power: the file, if it is one, and the directory that names it."""
    for place in {path, path if path.is_dir() else path.parent}:
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
