"""Speaking while the text is still arriving: the state machine of text streaming.

Text and speech alternate in blocks of N text and M speech tokens, as in the bistream training layout. The
model ends a block with the fill token, by which it asks for more text. A session holds the whole state of one
utterance; it knows the network only as a function that takes rows and returns scores, so it runs on any
implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import LLMConfig
from cosyvoice.errors import ConfigError, GenerationError, TextError
from cosyvoice.llm.layout import Kind, Row, SpecialTokens, length_limits, speech_rows, text_rows

Scores = NDArray[np.float32]
Feed = Callable[[Sequence[Row]], Scores]
"""Appends rows to the model's sequence and returns the log-probabilities [outputs] after the last one."""
Sampler = Callable[[Scores, Sequence[int]], int]
"""Chooses an output id from log-probabilities [outputs] and the ids generated so far."""


class BistreamSession:
    """One utterance with streamed text: `push` each piece of text, then `finish`; both yield speech tokens.

    The iterators are lazy. One that is abandoned leaves the session whole: the next call continues where it
    stopped.
    """

    def __init__(
        self,
        feed: Feed,
        sampler: Sampler,
        special: SpecialTokens,
        config: LLMConfig,
        head: Sequence[Row],
        prompt_text: Sequence[int] = (),
        prompt_speech_token: Sequence[int] = (),
        max_tokens: int | None = None,
        check_text: Callable[[Sequence[int]], None] | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        """`head` are the rows read first; `prompt_text` and `prompt_speech_token` interleave behind.

        `max_tokens` bounds the speech; the released implementation has no bound. `check_text` is called with every
        piece of text before anything becomes of it, and raises what is wrong with it. `release` is called once, by
        `close`.

        Raises `ConfigError` for a model without a fill token.
        """
        if special.fill is None:
            raise ConfigError("this model does not read text that is still arriving; give it the whole text at once")
        self._feed, self._sampler, self._check_text, self._release = feed, sampler, check_text, release
        self._special, self._config, self._fill = special, config, special.fill
        self._max_tokens = max_tokens
        self._pending = list(head)
        self._text = [int(i) for i in prompt_text]
        self._prompt_speech = [int(i) for i in prompt_speech_token]
        self._text_length = 0
        self._history: list[int] = []
        block = config.mix_ratio[1]
        # A block that the prompt's speech has begun is completed before the first fill.
        self._next_fill = block - len(self._prompt_speech) % block
        self._text_ended = False
        self._done = False

    @property
    def history(self) -> list[int]:
        """Every id chosen so far, fill tokens and the final eos included."""
        return list(self._history)

    def push(self, text: Sequence[int]) -> Iterator[int]:
        """Add text tokens; yield the speech tokens of at most one block, none where more text is needed.

        Raises `TextError` for ids that the model does not have and after `finish`, and `GenerationError` if the model
        ends amid the text.
        """
        if self._text_ended:
            raise TextError("this session's text has ended already; begin a new session for more text")
        if self._check_text is not None:
            self._check_text(text)
        self._text += [int(i) for i in text]
        self._text_length += len(text)
        self._interleave_prompt()
        return self._speak_block()

    def finish(self) -> Iterator[int]:
        """Declare the text complete; yield speech tokens until eos. A second call continues the first."""
        if not self._text_ended:
            self._text_ended = True
            self._pending = self._final_rows()
        return self._speak_to_end()

    def close(self) -> None:
        """Give back what the utterance holds; nothing is spoken any more. May be called at any time, more than once."""
        self._done = self._text_ended = True
        if self._release is not None:
            self._release()
            self._release = None

    def _speak_block(self) -> Iterator[int]:
        if self._done or self._prompt_speech or not self._take_text():
            return
        while not self._done and (token := self._next_in_block()) != self._fill:
            yield token

    def _interleave_prompt(self) -> None:
        n, m = self._config.mix_ratio
        while self._prompt_speech and len(self._text) >= n:
            self._pending += text_rows(self._text[:n]) + speech_rows(self._prompt_speech[:m])
            self._text, self._prompt_speech = self._text[n:], self._prompt_speech[m:]

    def _take_text(self) -> bool:
        """Put N text rows before the next block where it needs them; False if they have not arrived."""
        n = self._config.mix_ratio[0]
        after_fill = bool(self._history) and self._history[-1] == self._fill
        # With anything behind sos the released models begin to speak before they read new text.
        at_start = not self._history and len(self._pending) == 1
        if not (after_fill or at_start):
            return True
        if len(self._text) < n:
            return False
        rows, self._text = text_rows(self._text[:n]), self._text[n:]
        self._pending = rows if after_fill else self._pending + rows
        return True

    def _next_in_block(self) -> int:
        scores = self._feed(self._pending)
        forced = len(self._history) == self._next_fill
        token = self._fill if forced else self._choose(scores, self._blocked_in_block())
        self._history.append(token)
        if token == self._fill:
            self._next_fill = len(self._history) + self._config.mix_ratio[1]
        else:
            self._accept(token)
        return token

    def _final_rows(self) -> list[Row]:
        task = Row(Kind.SPECIAL, self._special.task)
        if self._config.released_stream_end:
            # Behind a fill token, the pending rows were read before: the released models read them twice.
            return [*self._pending, *text_rows(self._text), task]
        after_fill = bool(self._history) and self._history[-1] == self._fill
        unread = [] if after_fill else self._pending
        return [*unread, *text_rows(self._text), task, *speech_rows(self._prompt_speech)]

    def _speak_to_end(self) -> Iterator[int]:
        while not self._done:
            if self._spoken() >= self._longest():
                self._done = True
                return
            token = self._choose(self._feed(self._pending), self._blocked_at_end())
            self._history.append(token)
            if token == self._special.eos:
                self._done = True
                return
            self._accept(token)
            yield token

    def _accept(self, token: int) -> None:
        if token >= self._config.speech_token_size:
            self._done = True
            raise GenerationError(
                f"the language model chose the special id {token} amid streamed text; try another seed, "
                "or give the text at once"
            )
        self._pending = speech_rows([token])

    def _choose(self, scores: Scores, blocked: list[int]) -> int:
        scores = np.array(scores, dtype=np.float32)
        scores[blocked] = -np.inf
        return self._sampler(scores, self._history)

    def _blocked_in_block(self) -> list[int]:
        if self._config.enforce_min_len:
            return [i for i in self._special.stop_ids if i != self._fill]
        return [self._config.speech_token_size]

    def _blocked_at_end(self) -> list[int]:
        if not self._config.enforce_min_len:
            return []
        minimum, _ = length_limits(self._text_length, self._config.min_token_text_ratio, 0.0)
        keep_eos = self._spoken() >= minimum
        return [i for i in self._special.stop_ids if not (keep_eos and i == self._special.eos)]

    def _longest(self) -> float:
        """Speech tokens at most: as asked for, or what a text given at once would have, where lengths are enforced."""
        if self._max_tokens is not None:
            return self._max_tokens
        if not self._config.enforce_min_len:
            return math.inf
        return length_limits(self._text_length, 0.0, self._config.max_token_text_ratio)[1]

    def _spoken(self) -> int:
        return sum(token < self._config.speech_token_size for token in self._history)
