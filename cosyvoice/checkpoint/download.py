"""`cosyvoice download`: a released model by name, complete, verified, and written down.

Files arrive in a hidden directory beside their place, each is compared with the digest that the hub lists, and only
when all of them are there does the directory take its name. So an interrupted download leaves no half model, and the
next one goes on where it stopped. `download.json` keeps the commit and the SHA-256 of every file: the same commit is
taken again, and a model that is there already is checked against it without a connection.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from pydantic import Field

from cosyvoice.checkpoint.hubs import Hub, HubName, Listing, RemoteFile, open_hub
from cosyvoice.config.base import StrictModel
from cosyvoice.errors import ConfigError, DownloadError, OutputError

LOCK_FILE = "download.json"
_OWNER = "FunAudioLLM"
KNOWN: dict[str, dict[HubName, str]] = {
    "CosyVoice-300M": {"huggingface": f"{_OWNER}/CosyVoice-300M", "modelscope": "iic/CosyVoice-300M"},
    "CosyVoice-300M-SFT": {"huggingface": f"{_OWNER}/CosyVoice-300M-SFT", "modelscope": "iic/CosyVoice-300M-SFT"},
    "CosyVoice-300M-Instruct": {
        "huggingface": f"{_OWNER}/CosyVoice-300M-Instruct",
        "modelscope": "iic/CosyVoice-300M-Instruct",
    },
    "CosyVoice2-0.5B": {"huggingface": f"{_OWNER}/CosyVoice2-0.5B", "modelscope": "iic/CosyVoice2-0.5B"},
    "Fun-CosyVoice3-0.5B": {
        "huggingface": f"{_OWNER}/Fun-CosyVoice3-0.5B-2512",
        "modelscope": f"{_OWNER}/Fun-CosyVoice3-0.5B-2512",
    },
}
"""The released models by name, and their repositories."""
_NEEDED = re.compile(
    r"cosyvoice[23]?\.yaml|(llm|flow|hift)\.(pt|safetensors|gguf)|speech\.gguf|campplus\.onnx"
    r"|speech_tokenizer(_v[123])?\.onnx|spk2info\.pt|speakers\.safetensors|config\.json|LICENSE(\.txt)?|README\.md"
    r"|CosyVoice-BlankEN/((config|vocab|tokenizer_config|added_tokens|generation_config)\.json|merges\.txt)"
    r"|voices/[^/]+\.safetensors|released/cosyvoice[23]?\.yaml"
)
_GRAPH = re.compile(r"[^/]+\.onnx|bundle\.json")
"""What a bundle has beyond that."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_BUFFER = 1 << 20


class LockedFile(StrictModel):
    """A downloaded file."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern="[0-9a-f]{64}")


class DownloadLock(StrictModel):
    """The content of `download.json`."""

    format_version: Literal[1] = 1
    source: HubName
    repository: str
    revision: str = Field(description="the commit; for ModelScope the branch or tag")
    files: dict[str, LockedFile]


@dataclass(frozen=True)
class Downloaded:
    """What a download brought."""

    directory: Path
    lock: DownloadLock
    fetched: tuple[str, ...]
    """Files that were transferred; none where all were there."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.lock.files.values())


Progress = Callable[[str, int, int], None]
"""Called with the file that is fetched next, the bytes there so far, and those of all files."""


def default_directory(name: str) -> Path:
    """Where a model goes: `$COSYVOICE_HOME/pretrained_models/NAME`, or `pretrained_models/NAME` where one works."""
    home = os.environ.get("COSYVOICE_HOME")
    return (Path(home).expanduser() if home else Path()) / "pretrained_models" / name.rsplit("/", 1)[-1]


def repository_of(name: str, source: HubName) -> str:
    """The repository of a released model, or `name` itself where it is one, as "owner/model".

    Raises `ConfigError` for a name that is neither, and for a source that does not exist.
    """
    if source not in get_args(HubName):
        raise ConfigError(f"no source {source!r} of models; choose one of {', '.join(get_args(HubName))}")
    if name in KNOWN:
        return KNOWN[name][source]
    if _REPOSITORY.fullmatch(name) and ".." not in name:
        return name
    close = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? There are" if close else "there are"
    raise ConfigError(f"no released model {name!r}; {hint} {', '.join(KNOWN)}, and repositories as 'owner/model'")


def hub_of(repository: str) -> HubName | None:
    """The hub that has the repository of a released model under this name; None for any other name.

    Of names that both hubs know it is ModelScope, as in the released implementation.
    """
    hubs: tuple[HubName, ...] = ("modelscope", "huggingface")
    return next((hub for hub in hubs if any(names[hub] == repository for names in KNOWN.values())), None)


def download(
    name: str,
    directory: Path | None = None,
    source: HubName = "huggingface",
    revision: str | None = None,
    also: Sequence[str] = (),
    hub: Hub | None = None,
    progress: Progress | None = None,
) -> Downloaded:
    """Bring a model into `directory`, complete and verified, or leave that as it was.

    Args:
        name: one of `KNOWN`, or a repository.
        directory: of the model; `default_directory(name)` by default.
        source: the hub.
        revision: commit, branch or tag. None: the commit that `download.json` names, or the newest.
        also: further files of the repository, beyond those that every model needs (`llm.rl.pt`).
        hub: instead of opening `source`.
        progress: told what is fetched.

    Raises:
        ConfigError: no such model or source.
        DownloadError: there is no connection, no such revision, or a file does not arrive intact.
        OutputError: the directory holds something else, or cannot be written.
    """
    repository = repository_of(name, source)
    target = default_directory(name) if directory is None else Path(directory)
    lock = _read_lock(target, repository, source)
    if lock is not None and revision in (None, lock.revision) and set(also) <= set(lock.files):
        if all(_is_intact(target / file, entry) for file, entry in lock.files.items()):
            return Downloaded(target, lock, ())
        revision = lock.revision
    hub = hub or open_hub(source)
    listing = hub.listing(repository, revision or (lock.revision if lock else None))
    wanted = _wanted(listing, also, repository)
    staging = target.parent / f".{target.name}.partial"
    try:
        staging.mkdir(parents=True, exist_ok=True)
        _keep(target, staging, wanted)
        fetched = _fetch_all(hub, repository, listing.revision, wanted, staging, progress)
        hub.forget(staging)
        _prune(staging, {file.name for file in wanted})
        files = {file.name: _locked(staging / file.name) for file in wanted}
        lock = DownloadLock(source=source, repository=repository, revision=listing.revision, files=files)
        (staging / LOCK_FILE).write_text(lock.model_dump_json(indent=1) + "\n", encoding="utf-8")
        _put(staging, target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error}); make room, or choose another directory") from None
    return Downloaded(target, lock, tuple(fetched))


def _read_lock(target: Path, repository: str, source: HubName) -> DownloadLock | None:
    """The record of what is in `target`; None where nothing is. Raises `OutputError` for anything else there."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    path = target / LOCK_FILE
    try:
        lock = cast(DownloadLock, DownloadLock.parse(json.loads(path.read_text(encoding="utf-8")), str(path)))
    except (OSError, ValueError, ConfigError):
        lock = None
    if lock is None or (lock.source, lock.repository) != (source, repository):
        what = "was not downloaded" if lock is None else f"was downloaded from {lock.source}: {lock.repository}"
        raise OutputError(f"{target} is there already and {what}; choose another --dir, or remove it")
    return lock


def _wanted(listing: Listing, also: Sequence[str], repository: str) -> list[RemoteFile]:
    """The files that a model needs, and those asked for."""
    names = {file.name for file in listing.files}
    for name in also:
        if name not in names:
            raise DownloadError(f"{repository} has no file {name!r}; it has: {', '.join(sorted(names)[:40])}")
    bundle = "bundle.json" in names
    wanted = [
        file
        for file in listing.files
        if file.name in also or _NEEDED.fullmatch(file.name) or (bundle and _GRAPH.fullmatch(file.name))
    ]
    if not any(file.name.startswith("llm.") for file in wanted):
        raise DownloadError(f"{repository} holds no speech model; name the repository of one, as 'owner/model'")
    unknown = [file.name for file in wanted if file.sha256 is None and file.git_sha1 is None]
    if unknown:
        raise DownloadError(
            f"{repository} lists no digest of {unknown[0]}, so that it could not be verified; try another --source"
        )
    return wanted


def _keep(target: Path, staging: Path, wanted: Sequence[RemoteFile]) -> None:
    """Take along from an earlier download what is intact."""
    for file in wanted:
        old, new = target / file.name, staging / file.name
        if not new.exists() and _matches(old, file):
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old, new)


def _fetch_all(
    hub: Hub, repository: str, revision: str, wanted: Sequence[RemoteFile], staging: Path, progress: Progress | None
) -> list[str]:
    """Transfer what is not there; a file that arrives damaged is asked for once more."""
    total, so_far, fetched = sum(file.size for file in wanted), 0, []
    for file in wanted:
        path = staging / file.name
        if not _matches(path, file):
            if progress is not None:
                progress(file.name, so_far, total)
            for again in (path.exists(), True):
                hub.fetch(repository, revision, file, staging, again)
                if _matches(path, file):
                    break
                path.unlink(missing_ok=True)
            else:
                raise DownloadError(
                    f"{file.name} of {repository} arrived damaged twice, its digest is not the one that {hub.name} "
                    "lists; run the command again later, or try another --source"
                )
            fetched.append(file.name)
        so_far += file.size
    return fetched


def _prune(staging: Path, names: set[str]) -> None:
    """Remove what an earlier attempt at another revision left."""
    for path in sorted(staging.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(staging).as_posix() not in names:
            path.unlink()


def _put(staging: Path, target: Path) -> None:
    """Give `staging` the name of `target`; what was there before is removed."""
    old = target.parent / f".{target.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _matches(path: Path, file: RemoteFile) -> bool:
    """Whether the file at `path` has the size and the digest that the hub lists."""
    if not path.is_file() or path.is_symlink() or path.stat().st_size != file.size:
        return False
    if file.sha256 is not None:
        return _digest(path, "sha256") == file.sha256.lower()
    return _digest(path, "sha1", f"blob {file.size}\0".encode()) == file.git_sha1


def _is_intact(path: Path, file: LockedFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and _digest(path, "sha256") == file.sha256


def _locked(path: Path) -> LockedFile:
    return LockedFile(size=path.stat().st_size, sha256=_digest(path, "sha256"))


def _digest(path: Path, kind: str, begin: bytes = b"") -> str:
    digest = hashlib.new(kind, begin)
    with path.open("rb") as file:
        while block := file.read(_BUFFER):
            digest.update(block)
    return digest.hexdigest()
