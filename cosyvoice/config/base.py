"""Strict typed configuration: an unknown key is refused and the likely spelling is suggested."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from cosyvoice.errors import ConfigError


class StrictModel(BaseModel):
    """Base of every configuration object: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def parse(cls, data: dict[str, Any], where: str = "configuration") -> StrictModel:
        """Validate `data`; raise `ConfigError` with one readable line per problem."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(cls, problem, where) for problem in error.errors())) from None


def _explain(cls: type[BaseModel], problem: Any, where: str) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{where}: {path}: {problem['msg']}"
    owner: Any = cls
    for part in problem["loc"][:-1]:
        field = getattr(owner, "model_fields", {}).get(part)
        owner = getattr(field, "annotation", None)
    known = list(getattr(owner, "model_fields", {}))
    close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}" if known else ""
    return f"{where}: unknown key {path!r}{hint}"
