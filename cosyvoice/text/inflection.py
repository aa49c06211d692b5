"""The engine of inflect, without the run-time type checks that it puts around its methods.

Each of them makes typeguard parse the whole of inflect again, which takes seconds: most of the time from the start of a
process to its first sentence with a number.
"""

from __future__ import annotations

import threading
from typing import Any

_importing = threading.Lock()


def inflect_engine() -> Any:
    """An `inflect.engine()`. Raises `ImportError` where inflect is not installed."""
    with _importing:
        try:
            import typeguard
        except ImportError:  # inflect does not use it in all its versions
            import inflect
        else:
            checked = typeguard.typechecked
            setattr(typeguard, "typechecked", _unchecked)  # noqa: B010
            try:
                import inflect
            finally:
                setattr(typeguard, "typechecked", checked)  # noqa: B010
    return inflect.engine()


def _unchecked(target: Any) -> Any:
    return target
