"""When a stream speaks: how many tokens each chunk takes, and what its joined chunks are.

A chunk is computed once `hop` new tokens and the look-ahead of the flow have come; hops grow, since a
listener who already hears something can be given more at once, and larger chunks cost less. All of this
belongs to one utterance. The first hop is lengthened so that prompt and chunk together fill whole attention
chunks.

Two modes differ in the last chunk of a piece:

* `consistent`: it is computed with chunk masks like all others. The joined chunks then equal one computation
  of the whole piece with chunk masks, whatever the hops were.
* `released`: it is computed with full attention, as in the released implementation, over the whole piece;
  what was given out before stays, so the last chunk continues frames that it would itself have made
  differently.

In both, the vocoder gives each sample once: chunk k ends where chunk k+1 begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cosyvoice.errors import ConfigError

StreamingMode = Literal["consistent", "released"]


@dataclass(frozen=True)
class StreamingConfig:
    """Chunk sizes in tokens; the defaults are those of the released implementation."""

    hop: int = 25
    growth: int = 2
    max_hop: int = 100
    mode: StreamingMode = "consistent"

    def check(self, attention_chunk: int) -> None:
        """Raise `ConfigError` where chunks would not fill attention chunks of `attention_chunk` tokens."""
        if self.mode not in ("consistent", "released"):
            raise ConfigError(f"unknown streaming mode {self.mode!r}; use 'consistent' or 'released'")
        if self.growth < 1 or self.max_hop < self.hop:
            raise ConfigError(
                f"hop {self.hop}, growth {self.growth}, max_hop {self.max_hop}: hops cannot shrink; "
                "use a growth of at least 1 and a max_hop of at least hop"
            )
        for name, value in (("hop", self.hop), ("max_hop", self.max_hop)):
            if value < 1:
                raise ConfigError(f"{name} is {value} tokens; use at least 1")
            if self.mode == "consistent" and value % attention_chunk:
                raise ConfigError(
                    f"{name} is {value} tokens, which is no multiple of the model's attention chunk of "
                    f"{attention_chunk}; frames would change after they were spoken, so choose a multiple"
                )


class ChunkSchedule:
    """Where the chunks of one piece end."""

    def __init__(self, config: StreamingConfig, prompt_tokens: int, lookahead: int, attention_chunk: int) -> None:
        self._config = config
        self._lookahead = lookahead
        self._spoken = 0
        self._hop = config.hop
        unit = attention_chunk if config.mode == "consistent" else config.hop
        self._padding = -prompt_tokens % unit

    @property
    def needed(self) -> int:
        """Tokens, counted from the start of the piece, that the next chunk needs; the last are look-ahead."""
        return self._spoken + self._hop + self._padding + self._lookahead

    def advance(self) -> None:
        """The chunk was computed."""
        self._spoken += self._hop + self._padding
        self._padding = 0
        self._hop = min(self._hop * self._config.growth, self._config.max_hop)
