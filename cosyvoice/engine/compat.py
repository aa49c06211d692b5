"""One switch between doing the right thing and doing what the released code did.

Some of what the released code does is no part of the function that its weights were trained for, but a mistake around
it. By default those are corrected. `compat="released"` brings them back, for comparison sample by sample; parity is
measured that way. `docs/differences.md` lists each.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from cosyvoice.config.model import LLMConfig, ModelConfig
from cosyvoice.errors import ConfigError

Compat = Literal["corrected", "released"]

RELEASED_PROMPT_RATE = 24000
"""Hz, to which the released code resamples every reference before its mel is taken, whatever the mel was made for."""


def check_compat(compat: str) -> None:
    """Raise `ConfigError` for another word than the two."""
    if compat not in get_args(Compat):
        raise ConfigError(f"no compat {compat!r}; choose {' or '.join(map(repr, get_args(Compat)))}")


def apply_compat(config: ModelConfig, compat: Compat) -> ModelConfig:
    """`config` with the settings that decide between the two; those of a model of our own stay."""
    released = compat == "released"
    if released:
        return config.model_copy(update={"prompt_rate": RELEASED_PROMPT_RATE})
    llm: dict[str, Any] = {"enforce_min_len": True}
    if isinstance(config.llm, LLMConfig):
        llm["released_stream_end"] = False
    return config.model_copy(update={"llm": config.llm.model_copy(update=llm)})
