"""Parity of the native language model: the same checks as for the reference, on the stage that is served.

Sequences go through the stage's own state and key-value buffers; the lengths that a check compares are those of the
buffers, not a count of the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from cosyvoice.config.model import LLMConfig
from cosyvoice.engine.decoding import decode
from cosyvoice.engine.models import CosyVoice3Model
from cosyvoice.engine.stages import FloatArray, LLMInput
from cosyvoice.llm.bistream import BistreamSession, Sampler
from cosyvoice.llm.layout import Row as InputRow
from cosyvoice.llm.layout import speech_rows
from cosyvoice.native.llm import WEIGHTS, EmbeddingTables, NativeLLMStage, NativeLLMState
from cosyvoice.parity.converted import Converted
from cosyvoice.parity.golden import Row
from cosyvoice.parity.llm import Call, check_topics, speaking_topics


def check(converted: Converted) -> Iterator[Row]:
    """Rows of the topics `vN_llm`, `vN_bistream` and `ras`, as far as the folder has them."""
    topics = speaking_topics(converted.generation, lambda **overrides: NativeLM(converted, **overrides))
    yield from check_topics(converted.folder, topics)


class NativeLM:
    """The native stage as the checks see a language model; `overrides` replace fields of its configuration."""

    def __init__(self, converted: Converted, **overrides: Any) -> None:
        model = converted.model
        self.config: LLMConfig = model.config.llm.model_copy(update=overrides)
        self.end_of_prompt_id = model.config.end_of_prompt_id
        self.calls: list[Call] = []
        self._model = CosyVoice3Model(model.config.model_copy(update={"llm": self.config}), model.stages)
        self._stage = cast(NativeLLMStage, model.stages.llm)
        self.special = self._stage.special
        self._embeddings = EmbeddingTables(converted.bundle / WEIGHTS, self.config)
        self._streamed: NativeLLMState | None = None

    def embed_rows(self, rows: Sequence[InputRow]) -> FloatArray:
        """Embeddings [1, rows, channels] as they enter the graph."""
        return self._embeddings(rows)[None]

    def generate(
        self,
        text: Sequence[int],
        sampler: Sampler,
        prompt_text: Sequence[int] = (),
        prompt_speech_token: Sequence[int] = (),
    ) -> Iterator[int]:
        """Speech tokens of `text`."""
        inputs = LLMInput(text, prompt_text, prompt_speech_token)
        return decode(self, inputs, sampler, self._model.decoding_rules(len(text)))

    def bistream(
        self, sampler: Sampler, prompt_text: Sequence[int] = (), prompt_speech_token: Sequence[int] = ()
    ) -> BistreamSession:
        """A session that takes text piece by piece; it ends the one before."""
        head, rest = self._stage.bistream_head(prompt_text)
        if self._streamed is not None:
            self.release(self._streamed)
        state = self._streamed = self._stage.open()
        return BistreamSession(
            lambda rows: self._feed(rows, state), sampler, self.special, self.config, head, rest, prompt_speech_token
        )

    def init_state(self, inputs: LLMInput) -> NativeLLMState:
        """See `LLMStage`."""
        return self._stage.init_state(inputs)

    def step(self, token: int | None, state: NativeLLMState) -> tuple[FloatArray, NativeLLMState]:
        """See `LLMStage`."""
        return self._feed([] if token is None else speech_rows([token]), state), state

    def release(self, state: NativeLLMState) -> None:
        """See `LLMStage`."""
        self._stage.release(state)

    def _feed(self, rows: Sequence[InputRow], state: NativeLLMState) -> FloatArray:
        pending, past = [*state.rows, *rows], state.sequence.length
        scores = self._stage.feed(rows, state)
        self.calls.append(Call(pending, past, scores.copy()))
        return scores
