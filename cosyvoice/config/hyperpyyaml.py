"""A small reader of HyperPyYAML files that treats them as data: nothing is imported, constructed or called.

`!new:`, `!name:` and `!apply:` become `Tagged` values that only remember the dotted name and the arguments;
`!ref` is resolved, including arithmetic on numbers (`!ref <chunk_size> * <token_mel_ratio>`). Every other tag
is refused by name. A few kilobytes can be written so that they unfold to gigabytes or to endless depth: long files,
aliases, deep nesting, and references that grow without measure are refused before they unfold.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from cosyvoice.errors import ConfigError

_MAX_BYTES = 256 * 1024
_MAX_DEPTH = 40
_MAX_TEXT = 64 * 1024
_MAX_NUMBER = 1e15
_MAX_EXPRESSION = 1000

_REFERENCE = re.compile(r"<([^<>]+)>")
_PATH_PART = re.compile(r"[^\[\]]+")
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Tagged:
    """`!kind:target` with its arguments: a mapping, a list, or None where the tag stands alone."""

    kind: str
    target: str
    arguments: Any = None

    @property
    def class_name(self) -> str:
        """The last part of the dotted name."""
        return self.target.rpartition(".")[2]


@dataclass(frozen=True)
class _Ref:
    expression: str


class _Loader(yaml.SafeLoader):
    """SafeLoader that keeps the HyperPyYAML tags as data, and refuses what unfolds to more than is written."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"{self.peek_event().start_mark}: aliases are not read; use !ref, or write it out")
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {_MAX_DEPTH} levels deep; no model is described like this")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _construct_arguments(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(cast(yaml.ScalarNode, node)) or None


def _tag_constructor(kind: str) -> Callable[[yaml.SafeLoader, str, yaml.Node], Tagged]:
    def construct(loader: yaml.SafeLoader, target: str, node: yaml.Node) -> Tagged:
        return Tagged(kind, target, _construct_arguments(loader, node))

    return construct


def _construct_ref(loader: yaml.SafeLoader, node: yaml.Node) -> _Ref:
    return _Ref(str(loader.construct_scalar(cast(yaml.ScalarNode, node))))


for _kind in ("new", "name", "apply"):
    _Loader.add_multi_constructor(f"!{_kind}:", _tag_constructor(_kind))
_Loader.add_constructor("!ref", _construct_ref)
# YAML 1.1 reads 1e-06 as a string because it wants a dot; HyperPyYAML reads it as a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_hyperpyyaml(path: Path, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read `path` into plain values and `Tagged` nodes, with every reference resolved.

    Args:
        path: the YAML file.
        overrides: top-level keys to replace before the references are resolved.

    Raises:
        ConfigError: the file is not YAML, holds an unknown tag, or a reference leads nowhere or to itself.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ConfigError(
                f"{path} has {size} bytes, more than {_MAX_BYTES}; it is no YAML file of a model directory"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); is it a YAML file of a model directory?") from None
    try:
        # _Loader derives from SafeLoader.
        document = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = " ".join(str(error).split())
        raise ConfigError(f"{path} is not a YAML file this reader understands: {message}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no mapping at its top level; is it the YAML file of a model directory?")
    try:
        return _Resolver({**document, **(overrides or {})}, path).resolve_all()
    except RecursionError:
        raise ConfigError(f"{path}: the chain of references is too long; write the values out") from None


def walk_tagged(value: Any) -> Iterator[Tagged]:
    """Every `Tagged` node inside `value` once, outer ones first, though references share it many times."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if not isinstance(current, (Tagged, dict, list)) or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Tagged):
            yield current
            children = [current.arguments]
        else:
            children = list(current.values()) if isinstance(current, dict) else current
        pending.extend(reversed(children))


class _Resolver:
    """Replaces `!ref` nodes; remembers resolved top-level keys, so that shared parts stay shared."""

    def __init__(self, document: dict[str, Any], path: Path) -> None:
        self.document = document
        self.path = path
        self.done: dict[str, Any] = {}
        self.pending: list[str] = []

    def resolve_all(self) -> dict[str, Any]:
        return {key: self._top_level(key) for key in self.document}

    def _top_level(self, key: str) -> Any:
        if key in self.done:
            return self.done[key]
        if key in self.pending:
            raise ConfigError(f"{self.path}: !ref <{key}> refers to itself; break the circle")
        if key not in self.document:
            raise ConfigError(f"{self.path}: !ref <{key}> names no key of the file; check the spelling")
        self.pending.append(key)
        self.done[key] = self._resolve(self.document[key])
        self.pending.pop()
        return self.done[key]

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, _Ref):
            return self._evaluate(value.expression)
        if isinstance(value, Tagged):
            return Tagged(value.kind, value.target, self._resolve(value.arguments))
        if isinstance(value, dict):
            return {key: self._resolve(child) for key, child in value.items()}
        if isinstance(value, list):
            return [self._resolve(child) for child in value]
        return value

    def _lookup(self, reference: str) -> Any:
        """`<key>` or `<key[inner]>`."""
        parts = _PATH_PART.findall(reference)
        value = self._top_level(parts[0].strip()) if parts else self._top_level(reference)
        for part in parts[1:]:
            inner = value.arguments if isinstance(value, Tagged) else value
            if not isinstance(inner, dict) or part not in inner:
                raise ConfigError(f"{self.path}: !ref <{reference}>: there is no {part!r}; check the spelling")
            value = inner[part]
        return value

    def _evaluate(self, expression: str) -> Any:
        whole = _REFERENCE.fullmatch(expression.strip())
        if whole:
            return self._lookup(whole[1])
        values = [self._lookup(name) for name in _REFERENCE.findall(expression)]
        if any(isinstance(value, str) for value in values):
            if not all(isinstance(value, (str, int, float)) for value in values):
                raise ConfigError(f"{self.path}: !ref {expression}: only numbers and texts can be joined")
            remaining = iter(values)
            if sum(len(str(value)) for value in values) > _MAX_TEXT:
                raise ConfigError(f"{self.path}: !ref {expression}: grows too long; write the value out")
            return _REFERENCE.sub(lambda _: str(next(remaining)), expression)
        if len(expression) > _MAX_EXPRESSION:
            raise ConfigError(f"{self.path}: a !ref of {len(expression)} characters is too long; write the value out")
        if not all(isinstance(value, (int, float)) for value in values):
            raise ConfigError(f"{self.path}: !ref {expression}: only numbers can be calculated with")
        remaining = iter(values)
        # Parentheses keep a negative value behind an operator valid.
        calculation = _REFERENCE.sub(lambda _: f"({next(remaining)!r})", expression)
        try:
            return _calculate(ast.parse(calculation.strip(), mode="eval").body)
        except (SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError):
            raise ConfigError(f"{self.path}: !ref {expression}: only + - * / // % on numbers are understood") from None


def _calculate(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_calculate(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        result = cast("int | float", _OPERATORS[type(node.op)](_calculate(node.left), _calculate(node.right)))
        if abs(result) > _MAX_NUMBER:
            raise ValueError("too large")
        return result
    raise ValueError("not arithmetic")
