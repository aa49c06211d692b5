"""When a stream speaks: how many tokens each chunk takes, and what its joined chunks are.

A chunk is computed once `hop` new tokens and the look-ahead of the flow have come; hops grow, since a
listener who already hears something can be given more at once, and larger chunks cost less. All of this
belongs to one utterance. In the consistent mode the first chunk is shorter than an attention chunk: the end of the
reference fills the rest of it, so somebody hears something early. In the released mode the first hop is lengthened
until reference and chunk together are a multiple of it.

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
    """Chunk sizes in tokens; but for `first`, the defaults are those of the released implementation."""

    hop: int = 25
    growth: int = 2
    max_hop: int = 100
    mode: StreamingMode = "consistent"
    first: int = 12
    """Of the first chunk at least, in the consistent mode; more than an attention chunk counts as one."""

    def check(self, attention_chunk: int) -> None:
        """Raise `ConfigError` where chunks would not fill attention chunks of `attention_chunk` tokens."""
        if self.mode not in ("consistent", "released"):
            raise ConfigError(f"unknown streaming mode {self.mode!r}; use 'consistent' or 'released'")
        if self.growth < 1 or self.max_hop < self.hop:
            raise ConfigError(
                f"hop {self.hop}, growth {self.growth}, max_hop {self.max_hop}: hops cannot shrink; "
                "use a growth of at least 1 and a max_hop of at least hop"
            )
        for name, value in (("first", self.first), ("hop", self.hop), ("max_hop", self.max_hop)):
            if value < 1:
                raise ConfigError(f"{name} is {value} tokens; use at least 1")
            if name == "first":
                continue
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
        if config.mode == "consistent":
            missing = -prompt_tokens % attention_chunk
            first = min(config.first, attention_chunk)
            self._size = missing if missing >= first else missing + attention_chunk
            self._next_hop = config.hop if self._size < config.hop else self._grown(config.hop)
        else:
            self._size = config.hop + -prompt_tokens % config.hop
            self._next_hop = self._grown(config.hop)

    @property
    def needed(self) -> int:
        """Tokens, counted from the start of the piece, that the next chunk needs; the last are look-ahead."""
        return self._spoken + self._size + self._lookahead

    def advance(self) -> None:
        """The chunk was computed."""
        self._spoken += self._size
        self._size = self._next_hop
        self._next_hop = self._grown(self._size)

    def _grown(self, hop: int) -> int:
        return min(hop * self._config.growth, self._config.max_hop)


def unused_reference(config: StreamingConfig, prompt_tokens: int, attention_chunk: int) -> int:
    """Tokens to leave out at the beginning of a reference, so that the first chunk needs no more than `first`.

    Less than an attention chunk, and none of a reference that is hardly longer than one.
    """
    if config.mode != "consistent" or prompt_tokens < 2 * attention_chunk:
        return 0
    return (prompt_tokens + min(config.first, attention_chunk)) % attention_chunk
