"""Parity of the native language model: the same checks as for the reference, on the stage that is served.

Sequences go through the stage's own state and key-value buffers; the lengths that a check compares are those of the
buffers, not a count of the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from cosyvoice.engine.decoding import decode
from cosyvoice.engine.models import CosyVoiceModel
from cosyvoice.engine.stages import FloatArray, LLMInput
from cosyvoice.llm.bistream import BistreamSession, Sampler
from cosyvoice.llm.layout import Row as InputRow
from cosyvoice.llm.layout import speech_rows
from cosyvoice.llm.prompt import PromptRules
from cosyvoice.native.llm import NativeLLMStage, NativeLLMState
from cosyvoice.parity.converted import Converted, inside
from cosyvoice.parity.golden import Row
from cosyvoice.parity.llm import Call, check_topics, speaking_topics


def check(converted: Converted) -> Iterator[Row]:
    """Rows of the topics `vN_llm`, `vN_bistream` and `ras`, as far as the folder has them."""
    topics = speaking_topics(converted.generation, lambda **overrides: NativeLM(converted.model, **overrides))
    left_out = inside(converted.folder, converted.generation, f"{converted.generation}_llm")
    yield from check_topics(converted.folder, topics, left_out)


class NativeLM(PromptRules):
    """The native stage as the checks see a language model; `overrides` replace fields of its configuration."""

    def __init__(self, model: CosyVoiceModel, **overrides: Any) -> None:
        self.config = model.config.llm.model_copy(update=overrides)
        self.end_of_prompt_id = model.config.end_of_prompt_id
        self.calls: list[Call] = []
        self._model = type(model)(model.config.model_copy(update={"llm": self.config}), model.stages)
        self._stage = cast(NativeLLMStage, model.stages.llm)
        self.special = self._stage.special
        self._streamed: BistreamSession | None = None

    def embedded(self, rows: Sequence[InputRow], speaker_embedding: FloatArray | None) -> FloatArray:
        """Embeddings [1, rows, channels] as they enter the graph."""
        return self._stage.embed(rows, speaker_embedding)[None]

    def generate(
        self,
        text: Sequence[int],
        sampler: Sampler,
        prompt_text: Sequence[int] = (),
        prompt_speech_token: Sequence[int] = (),
        speaker_embedding: FloatArray | None = None,
    ) -> Iterator[int]:
        """Speech tokens of `text`."""
        inputs = LLMInput(text, prompt_text, prompt_speech_token, speaker_embedding)
        return decode(self, inputs, sampler, self._model.decoding_rules(len(text)))

    def bistream(
        self, sampler: Sampler, prompt_text: Sequence[int] = (), prompt_speech_token: Sequence[int] = ()
    ) -> BistreamSession:
        """A session that takes text piece by piece; it ends the one before."""
        if self._streamed is not None:
            self._streamed.close()
        self._streamed = self.text_stream(LLMInput((), prompt_text, prompt_speech_token), sampler)
        return self._streamed

    def init_state(self, inputs: LLMInput) -> NativeLLMState:
        """See `LLMStage`."""
        return self._stage.init_state(inputs)

    def step(self, token: int | None, state: NativeLLMState) -> tuple[FloatArray, NativeLLMState]:
        """See `LLMStage`."""
        return self._feed([] if token is None else speech_rows([token]), state), state

    def release(self, state: NativeLLMState) -> None:
        """See `LLMStage`."""
        self._stage.release(state)

    def text_stream(self, inputs: LLMInput, sampler: Sampler, limit: int | None = None) -> BistreamSession:
        """See `LLMStage`."""
        state = self._stage.open()
        return self.open_stream(
            lambda rows: self._feed(rows, state),
            sampler,
            inputs.prompt_text,
            inputs.prompt_speech_token,
            limit,
            lambda: self.release(state),
        )

    def _feed(self, rows: Sequence[InputRow], state: NativeLLMState) -> FloatArray:
        pending, past = [*state.rows, *rows], state.sequence.length
        scores = self._stage.feed(rows, state)
        self.calls.append(Call(pending, past, scores.copy()))
        return scores
