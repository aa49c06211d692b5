"""What a speech language model reads before it speaks, and which ids it can read: the same for every implementation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cosyvoice.config.model import LLMConfig, TransformerLMConfig
from cosyvoice.errors import ConfigError, TextError, VoiceError
from cosyvoice.llm.bistream import BistreamSession, Feed, Sampler
from cosyvoice.llm.layout import Kind, Row, SpecialTokens, prompt, text_rows


class PromptRules:
    """For a class to inherit that has these attributes; it keeps no state and computes no network."""

    config: LLMConfig | TransformerLMConfig
    special: SpecialTokens
    end_of_prompt_id: int | None
    """A text token that must stand before or in the text; None: no such mark."""

    def prompt_rows(
        self,
        text: Sequence[int],
        prompt_text: Sequence[int] = (),
        prompt_speech_token: Sequence[int] = (),
        speaker_embedding: NDArray[np.float32] | None = None,
    ) -> list[Row]:
        """`[sos, speaker, prompt_text, text, task, prompt_speech_token]`: what the model reads before it speaks.

        The speaker has a row where the model reads speaker embeddings and there is one.

        Raises `TextError` for an empty text, an unknown id, or a missing end-of-prompt mark, and `VoiceError`
        for a speech token outside of the codebook, or a speaker embedding of another length.
        """
        if len(text) == 0:
            raise TextError("the text has no tokens; give a text with at least one word")
        self.check_text([*prompt_text, *text])
        self.check_end_of_prompt([*prompt_text, *text])
        self.check_speech(prompt_speech_token)
        speaker = self.used_speaker(speaker_embedding)
        return prompt([*prompt_text, *text], prompt_speech_token, self.special, speaker is not None)

    def used_speaker(self, speaker_embedding: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """The speaker embedding, if the model reads one; raises `VoiceError` for one of another length."""
        size = self.config.speaker_embedding_dim
        if size is None or speaker_embedding is None:
            return None
        if speaker_embedding.shape != (size,):
            raise VoiceError(
                f"the speaker embedding has the shape {speaker_embedding.shape}, this model reads {size} numbers; "
                "make the voice again for this model"
            )
        return speaker_embedding

    def open_stream(
        self,
        feed: Feed,
        sampler: Sampler,
        prompt_text: Sequence[int] = (),
        prompt_speech_token: Sequence[int] = (),
        max_tokens: int | None = None,
        release: Callable[[], None] | None = None,
    ) -> BistreamSession:
        """A session that takes text piece by piece and speaks meanwhile, on a sequence that `feed` appends to.

        The end-of-prompt mark, where the model needs one, must stand in the prompt text: what precedes it is read
        before anything else. Raises `TextError` and `VoiceError` as `prompt_rows` does, also for pieces of text, and
        `ConfigError` for a model that was not trained for it.
        """
        if not isinstance(self.config, LLMConfig) or not self.config.bistream:
            raise ConfigError("this model does not read text that is still arriving; give it the whole text at once")
        self.check_text(prompt_text)
        self.check_end_of_prompt(prompt_text)
        self.check_speech(prompt_speech_token)
        marked = 0 if self.end_of_prompt_id is None else list(prompt_text).index(self.end_of_prompt_id) + 1
        head, rest = [Row(Kind.SPECIAL, self.special.sos), *text_rows(prompt_text[:marked])], prompt_text[marked:]

        return BistreamSession(
            feed,
            sampler,
            self.special,
            self.config,
            head,
            rest,
            prompt_speech_token,
            max_tokens,
            self.check_text,
            release,
        )

    def check_text(self, ids: Sequence[int]) -> None:
        """Raise `TextError` for an id without an embedding."""
        size = self.config.text_token_size
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
