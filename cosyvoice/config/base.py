"""Strict typed configuration: an unknown key is refused and the likely spelling is suggested."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Tag, ValidationError

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
    owners: list[Any] = [cls]
    parts: list[str] = []
    for part in problem["loc"]:
        member = _member(owners[-1], part)
        if member is None:
            parts.append(str(part))
        owners.append(member or getattr(getattr(owners[-1], "model_fields", {}).get(part), "annotation", None))
    path = ".".join(parts)
    if problem["type"] != "extra_forbidden":
        return f"{where}: {path}: {problem['msg']}"
    known = list(getattr(owners[-2], "model_fields", {}))
    close = difflib.get_close_matches(parts[-1], known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}" if known else ""
    return f"{where}: unknown key {path!r}{hint}"


def _member(annotation: Any, tag: Any) -> Any:
    """The class of a union that `tag` chooses; None where there is no such union. Its tag is in no file's path."""
    for member in get_args(annotation):
        if any(isinstance(mark, Tag) and mark.tag == tag for mark in getattr(member, "__metadata__", ())):
            return member.__origin__
    return None
