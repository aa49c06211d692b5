"""What a command says when the packages of an extra are not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cosyvoice.errors import MissingDependencyError


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Imports in this context that fail for want of a package raise `MissingDependencyError` with the cure."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "cosyvoice"):
            raise
        raise MissingDependencyError(
            f'{purpose} needs the package {missing}: pip install "cosyvoice[{extra}]"'
        ) from error
