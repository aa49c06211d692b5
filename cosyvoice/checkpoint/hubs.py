"""Hugging Face and ModelScope behind one small interface: what a repository holds, and one file of it.

Their client libraries speak the protocols, keep what has arrived of a broken transfer, and go on from there. What a
server says is not trusted: names of files are checked here before anything is written, contents by who asks for them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from cosyvoice.errors import ConfigError, DownloadError, MissingDependencyError

HubName = Literal["huggingface", "modelscope"]
_PARTS = ".parts"
"""Where partial files are kept."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. One of the two digests is known."""

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None
    """SHA-1 of the content as git stores it, for small files."""


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one revision."""

    revision: str
    """The commit, where the hub tells it."""
    files: tuple[RemoteFile, ...]


class Hub(Protocol):
    """A place that models are downloaded from."""

    name: HubName

    def listing(self, repository: str, revision: str | None) -> Listing:
        """Files at `revision` (None: the newest). Raises `DownloadError`."""

    def fetch(self, repository: str, revision: str, file: RemoteFile, directory: Path, again: bool) -> None:
        """Put a file into `directory` under its name, going on where an earlier attempt broke off.

        `again` discards what is there. Raises `DownloadError`.
        """

    def forget(self, directory: Path) -> None:
        """Remove what `fetch` keeps in `directory` for its own use."""


def open_hub(name: HubName) -> Hub:
    """The hub of a name. Raises `ConfigError` for another, `MissingDependencyError` without its client library."""
    if name == "huggingface":
        return HuggingFace()
    if name == "modelscope":
        return ModelScope()
    raise ConfigError(f"no source {name!r} of models; choose 'huggingface' or 'modelscope'")


class HuggingFace:
    """The Hugging Face Hub, or the mirror that `HF_ENDPOINT` names."""

    name: HubName = "huggingface"

    def __init__(self) -> None:
        try:
            import huggingface_hub
        except ImportError:
            raise _missing("huggingface_hub", "Hugging Face") from None
        self._client = huggingface_hub
        # The library reads the variable when it is imported, which may have been long ago.
        self._endpoint = os.environ.get("HF_ENDPOINT") or None

    def listing(self, repository: str, revision: str | None) -> Listing:
        """See `Hub`."""
        with _translated(self.name, repository, revision):
            info = self._client.HfApi(self._endpoint).model_info(repository, revision=revision, files_metadata=True)
            found = [
                (item.rfilename, item.size or 0, item.lfs.sha256 if item.lfs else None, item.blob_id)
                for item in info.siblings or []
            ]
        if not _COMMIT.fullmatch(info.sha or ""):
            raise DownloadError(f"{self.name} names no commit for {repository}; try again later, or another source")
        files = [RemoteFile(name, size, sha256, None if sha256 else blob) for name, size, sha256, blob in found]
        return Listing(str(info.sha), _checked(files, repository))

    def fetch(self, repository: str, revision: str, file: RemoteFile, directory: Path, again: bool) -> None:
        """See `Hub`. The library's own way throws away what has arrived when a process ends; this one keeps it."""
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        # Named by content: what another revision left is not continued.
        part = directory / _PARTS / str(file.sha256 or file.git_sha1)
        target = directory / file.name
        with _translated(self.name, repository, revision):
            for place in (part, target):
                place.parent.mkdir(parents=True, exist_ok=True)
            url = self._client.hf_hub_url(repository, file.name, revision=revision, endpoint=self._endpoint)
            if again or (part.exists() and part.stat().st_size > file.size):
                part.unlink(missing_ok=True)
            with part.open("ab") as content:
                http_get(
                    url,
                    content,
                    resume_size=content.tell(),
                    headers=build_hf_headers(),
                    expected_size=file.size,
                    displayed_filename=file.name,
                )
            part.replace(target)

    def forget(self, directory: Path) -> None:
        """See `Hub`."""
        shutil.rmtree(directory / _PARTS, ignore_errors=True)


class ModelScope:
    """ModelScope, or the server that `MODELSCOPE_ENDPOINT` names."""

    name: HubName = "modelscope"

    def __init__(self) -> None:
        try:
            import modelscope_hub
        except ImportError:
            raise _missing("modelscope-hub", "ModelScope") from None
        self._api = modelscope_hub.HubApi(endpoint=os.environ.get("MODELSCOPE_ENDPOINT") or None)

    def listing(self, repository: str, revision: str | None) -> Listing:
        """See `Hub`. ModelScope does not tell the commit that a branch stands for; the digests pin the files."""
        revision = revision or "master"
        with _translated(self.name, repository, revision):
            entries = self._api.list_repo_files(repository, "model", revision=revision)
            files = [RemoteFile(entry.path, entry.size, entry.sha256) for entry in entries if not entry.is_dir]
        return Listing(revision, _checked(files, repository))

    def fetch(self, repository: str, revision: str, file: RemoteFile, directory: Path, again: bool) -> None:
        """See `Hub`."""
        with _translated(self.name, repository, revision):
            self._api.download_file(
                repository,
                "model",
                file.name,
                revision=revision,
                local_dir=directory,
                force=again,
                file_size=file.size,
            )

    def forget(self, directory: Path) -> None:
        """See `Hub`."""
        for name in (".cache", "._____temp", ".lock", ".mdl", ".msc", ".mv"):
            path = directory / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _missing(package: str, hub: str) -> MissingDependencyError:
    return MissingDependencyError(
        f'downloading from {hub} needs the package {package}: pip install "cosyvoice[download]"'
    )


@contextmanager
def _translated(hub: str, repository: str, revision: str | None) -> Iterator[None]:
    """Errors of a client as `DownloadError`. The libraries' exceptions have no common base, so all are caught."""
    try:
        yield
    except DownloadError:
        raise
    except Exception as error:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        if isinstance(error, OSError) and error.errno is not None and not kinds & _NETWORK:
            raise DownloadError(f"the download cannot be stored ({reason}); make room, or choose --dir") from None
        at = f" at revision {revision!r}" if revision else ""
        if kinds & {"RepositoryNotFoundError", "RevisionNotFoundError", "NotFoundError", "NotExistError"}:
            cure = "check the name and the revision, or try another --source"
        elif kinds & {"GatedRepoError", "AuthenticationError", "PermissionDeniedError"}:
            cure = "log in with the tool of the hub, or try another --source"
        else:
            cure = (
                "check the connection and run the same command again, it goes on where it broke off; behind a "
                "firewall set HTTPS_PROXY or HF_ENDPOINT, or try another --source; without a connection copy the "
                "model directory from another machine"
            )
        raise DownloadError(f"{hub}: {repository}{at} cannot be had ({reason}); {cure}") from None


_NETWORK = {"ConnectionError", "RequestException", "HTTPError", "TransportError", "TimeoutError", "gaierror"}


def _checked(files: Iterable[RemoteFile], repository: str) -> tuple[RemoteFile, ...]:
    """`files`, all of whose names stay inside of the directory they are written to."""
    checked = tuple(files)
    for file in checked:
        if not is_safe(file.name):
            raise DownloadError(
                f"{repository} lists a file {file.name!r}, which lies outside of a model directory; the source is "
                "not to be trusted, so take another one"
            )
    return checked


def is_safe(name: str) -> bool:
    """Whether `name` is a relative path with '/' that stays inside of its directory, on every system."""
    path = PurePosixPath(name)
    plain = bool(name) and name.isprintable() and not set(name) & set('\\:*?"<>|') and not name.endswith("/")
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts and str(path) == name
