"""Directories that appear complete or not at all: made beside their place, and moved there as a whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cosyvoice.errors import OutputError


@contextmanager
def replacing(out: Path, keep: Callable[[Path], bool] = lambda item: False) -> Iterator[Path]:
    """An empty directory to fill, which takes the place of `out` when the block ends without an error.

    `keep` chooses the files and folders of an `out` that exists already which are taken along. Whatever goes
    wrong, `out` stays as it was and nothing is left beside it. Raises `OutputError` where it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}); choose another directory") from None
    fresh, old = temporary / "new", temporary / "old"
    try:
        fresh.mkdir()
        yield fresh
        if out.exists():
            for item in filter(keep, out.iterdir()):
                copy = shutil.copytree if item.is_dir() else shutil.copy2
                copy(item, fresh / item.name)
            out.rename(old)
        fresh.chmod(0o755)
        fresh.rename(out)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror or error}); is the disk full?") from None
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(temporary, ignore_errors=True)
