"""Hydra configuration of the trainings, checked against the typed settings.

Hydra composes the files of `cosyvoice/conf` and reads the overrides of a command line; the typed settings
decide what is a key, so that every field may be overridden, listed in the files or not, and a misspelt one is
refused with the likely spelling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from types import MappingProxyType
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cosyvoice.config.base import StrictModel
from cosyvoice.errors import ConfigError
from cosyvoice.training.settings import (
    CorpusSettings,
    FlowSettings,
    LLMSettings,
    SpeakerSettings,
    TokenizerSettings,
    VocoderSettings,
)

STAGES = ("tokenizer", "speaker", "llm", "flow", "vocoder")
"""The trainings, in an order in which each has what it needs."""
SETTINGS: Mapping[str, type[StrictModel]] = MappingProxyType(
    {
        "corpus": CorpusSettings,
        "tokenizer": TokenizerSettings,
        "speaker": SpeakerSettings,
        "llm": LLMSettings,
        "flow": FlowSettings,
        "vocoder": VocoderSettings,
    }
)
"""What the groups of the configuration are checked against."""
_CONFIG_MODULE = "cosyvoice.conf"


def sizes() -> list[str]:
    """Names of the configured sizes."""
    files = resources.files(_CONFIG_MODULE).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_settings(size: str, groups: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, StrictModel]:
    """Settings of `groups` (stages, or `corpus`) in a size.

    Overrides are Hydra's: `llm.loop.steps=10` changes one group, `loop.steps=10` every one of `groups`,
    `llm=test` takes a group from another size. Raises `ConfigError` for an unknown size, group or key, for a
    value out of range, and for an override of a group that is not asked for, since it would change nothing.
    """
    if size not in sizes():
        raise ConfigError(f"no size {size!r}: choose one of {', '.join(sizes())}")
    for group in groups:
        if group not in SETTINGS:
            raise ConfigError(f"no stage {group!r}: choose one of {', '.join(SETTINGS)}")
    arguments = [argument for override in overrides for argument in _address(override, groups)]
    try:
        with initialize_config_module(_CONFIG_MODULE, version_base="1.3"):
            composed = compose(size, arguments)
        data: Any = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"overrides {' '.join(overrides)!r}: {reason}; write KEY=VALUE") from None
    for group in groups:
        if not isinstance(data.get(group), dict):
            raise ConfigError(f"the overrides leave no settings of {group}: write {group}.KEY=VALUE")
    return {group: SETTINGS[group].parse(data[group], group) for group in groups}


def _address(override: str, groups: Sequence[str]) -> list[str]:
    """Hydra's arguments for one override: a key that names no group is meant for every one of `groups`."""
    key, equals, value = override.partition("=")
    delete, path = key.startswith("~"), key.lstrip("+~")
    owner = path.split(".")[0]
    if owner in SETTINGS and owner not in groups:
        raise ConfigError(f"{override}: the stage {owner} takes no part in this run; leave the override out")
    if owner in SETTINGS and "." not in path:
        return [override]
    if not path or (not equals and not delete):
        raise ConfigError(f"{override!r} is no override: write KEY=VALUE, such as loop.steps=10")
    paths = [path] if owner in SETTINGS else [f"{group}.{path}" for group in groups]
    # Forced, since the files need not list every field: which keys exist is for the typed settings to say.
    return [("~" if delete else "++") + one + equals + value for one in paths]


def differences(old: StrictModel, new: StrictModel) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with the old and the new value."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    return {key: (before.get(key), value) for key, value in after.items() if before.get(key) != value}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
