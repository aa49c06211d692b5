"""What a speech language model reads before it speaks, and which ids it can read: the same for every implementation."""

from __future__ import annotations

from collections.abc import Sequence

from cosyvoice.config.model import LLMConfig
from cosyvoice.errors import TextError, VoiceError
from cosyvoice.llm.layout import Kind, Row, SpecialTokens, speech_rows, text_rows


class PromptRules:
    """For a class to inherit that has these attributes; it keeps no state and computes no network."""

    config: LLMConfig
    special: SpecialTokens
    end_of_prompt_id: int | None
    """A text token that must stand before or in the text; None: no such mark."""

    def prompt_rows(
        self, text: Sequence[int], prompt_text: Sequence[int] = (), prompt_speech_token: Sequence[int] = ()
    ) -> list[Row]:
        """`[sos, prompt_text, text, task, prompt_speech_token]`: what the model reads before it speaks.

        Raises `TextError` for an empty text, an unknown id, or a missing end-of-prompt mark, and `VoiceError`
        for a speech token outside of the codebook.
        """
        if len(text) == 0:
            raise TextError("the text has no tokens; give a text with at least one word")
        self.check_text([*prompt_text, *text])
        self.check_end_of_prompt([*prompt_text, *text])
        self.check_speech(prompt_speech_token)
        return [
            Row(Kind.SPECIAL, self.special.sos),
            *text_rows(prompt_text),
            *text_rows(text),
            Row(Kind.SPECIAL, self.special.task),
            *speech_rows(prompt_speech_token),
        ]

    def check_text(self, ids: Sequence[int]) -> None:
        """Raise `TextError` for an id without an embedding."""
        size = self.config.qwen.vocab_size
        if any(not 0 <= i < size for i in ids):
            raise TextError(f"a text token is outside of the model's {size} tokens; use the tokenizer of this model")

    def check_speech(self, ids: Sequence[int]) -> None:
        """Raise `VoiceError` for an id outside of the codebook."""
        size = self.config.speech_token_size
        if any(not 0 <= i < size for i in ids):
            raise VoiceError(f"a prompt speech token is outside of 0..{size - 1}; make the voice again for this model")

    def check_end_of_prompt(self, ids: Sequence[int]) -> None:
        """Raise `TextError` if the model needs an end-of-prompt mark and `ids` has none."""
        if self.end_of_prompt_id is not None and self.end_of_prompt_id not in ids:
            raise TextError(
                f"neither the prompt text nor the text holds <|endofprompt|> (id {self.end_of_prompt_id}), "
                "which this model needs; begin the prompt text with an instruction and <|endofprompt|>"
            )

    def bistream_head(self, prompt_text: Sequence[int]) -> tuple[list[Row], Sequence[int]]:
        """What a streamed text begins with, up to the end-of-prompt mark, and the prompt text behind it."""
        marked = 0 if self.end_of_prompt_id is None else list(prompt_text).index(self.end_of_prompt_id) + 1
        return [Row(Kind.SPECIAL, self.special.sos), *text_rows(prompt_text[:marked])], prompt_text[marked:]
