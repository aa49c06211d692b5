"""The generations of CosyVoice as a hierarchy: each class adds what its generation added and nothing else.

A model joins the stages of one implementation with the rules of its generation: what is made of a reference,
what the language model is prompted with, which ids stop it, what becomes of its tokens. How a text becomes
audio with it, with seeds, retries and streaming, is the business of the pipeline.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cosyvoice.audio.mel import LogMel
from cosyvoice.audio.resample import sinc_resample
from cosyvoice.config.model import ModelConfig
from cosyvoice.engine.decoding import DecodingRules, Sampler, decode, decode_arriving, thin_out_runs
from cosyvoice.engine.instructions import DEFAULT_INSTRUCTION, END_OF_PROMPT, complete_instruction, is_known
from cosyvoice.engine.prompt_encoders import PROMPT_SAMPLE_RATE
from cosyvoice.engine.stages import FloatArray, FlowInput, IntArray, LLMInput, Stages
from cosyvoice.engine.streaming import ChunkSchedule, StreamingConfig, unused_reference
from cosyvoice.errors import AudioError, ConfigError, VoiceError
from cosyvoice.voice.voice import Voice


@dataclass(frozen=True)
class ReferenceFeatures:
    """What the prompt encoders make of a reference, lengths aligned."""

    speech_token: IntArray
    mel: FloatArray
    speaker_embedding: FloatArray


@dataclass(frozen=True)
class Prompt:
    """The conditions of an utterance in the form that the stages take."""

    text: Sequence[int]
    """Text tokens for the language model."""
    speech_token: Sequence[int]
    """Speech tokens for the language model; none where the text of the reference is not known or not used."""
    flow: FlowInput
    seconds_per_phone: float | None = None
    """The pace of the reference, where its transcript is known."""
    speaker_embedding: FloatArray | None = None
    """For language models that read one; None where an instruction describes the speaker instead."""
    warnings: tuple[str, ...] = ()
    """What the user should know about these conditions."""
    opening: Sequence[int] = ()
    """Text tokens before those of every piece, such as the mark of its language."""


class CosyVoiceModel:
    """What every generation does: zero-shot and cross-lingual speech, built-in speakers, voice conversion.

    The language model continues the speech tokens of the reference, whose transcript stands before the text.
    Without a transcript (cross-lingual) it gets neither, and the reference conditions the flow alone. A built-in
    speaker (SFT) is a speaker embedding without any reference.
    """

    instruction_opening = ""
    """What an instruction begins with."""
    trained_languages: tuple[str, ...] = ("zh", "en", "ja", "yue", "ko")
    """Codes of the languages of the released weights."""

    def __init__(self, config: ModelConfig, stages: Stages) -> None:
        self.config = config
        self.stages = stages
        self._mel = LogMel(config.mel)

    @property
    def sample_rate(self) -> int:
        """Of the samples that the vocoder gives, in Hz."""
        return self.config.hift.sampling_rate

    @property
    def token_rate(self) -> int:
        """Speech tokens a second."""
        return self.config.flow.input_frame_rate

    @property
    def stop_ids(self) -> range:
        """Output ids that end an utterance."""
        llm = self.config.llm
        return range(llm.speech_token_size, llm.speech_token_size + llm.speech_extra_tokens)

    @property
    def lookahead(self) -> int:
        """Tokens that the flow only looks at while the utterance goes on."""
        return self.config.flow.lookahead

    @property
    def attention_chunk(self) -> int:
        """Tokens of a chunk of the flow's masks."""
        return self.config.flow.attention_chunk

    @property
    def default_streaming(self) -> StreamingConfig:
        """How a stream is cut where nothing else is asked for."""
        return StreamingConfig(hop=100, growth=1, max_hop=100, mode="released")

    @property
    def follows_instructions(self) -> bool:
        """Whether the model can be told how to speak."""
        return self.config.follows_instructions

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that can be read; a model that reads phones has those of English."""
        return ("en",) if self.config.tokenizer == "phones" else self.trained_languages

    def language_mark(self, language: str) -> str:
        """What stands before text of a language where it was asked for; empty where the model tells it from the text.

        The first generation reads whisper's marks, as in its published example across languages.
        """
        return f"<|{language}|>" if self.config.tokenizer == "whisper" else ""

    def check_language(self, language: str) -> None:
        """Raise `ConfigError` for a language that cannot be read."""
        if language not in self.languages:
            raise ConfigError(
                f"the model {self.config.name!r} does not read {language!r}; use one of "
                f"{', '.join(self.languages)}, or leave the language out"
            )

    @property
    def reads_arriving_text(self) -> bool:
        """Whether the language model speaks while its text is still arriving; others wait for whole sentences."""
        return False

    def check_streaming(self, streaming: StreamingConfig) -> None:
        """Raise `ConfigError` for chunks that this generation cannot give."""
        if streaming.mode != "released":
            raise ConfigError(
                f"the flow of {self.config.name!r} sees the whole chunk, so its chunks cannot be consistent; "
                "use the streaming mode 'released'"
            )
        streaming.check(self.attention_chunk)

    def schedule(self, streaming: StreamingConfig, prompt_tokens: int) -> ChunkSchedule:
        """Where the chunks of a piece end, after a reference of `prompt_tokens` tokens."""
        return ChunkSchedule(streaming, 0, self.lookahead, self.attention_chunk)

    def streamed_reference(self, streaming: StreamingConfig, flow: FlowInput) -> FlowInput:
        """What of the reference conditions a stream."""
        return flow

    def encode_reference(self, samples: FloatArray, sample_rate: int) -> ReferenceFeatures:
        """Speech tokens, mel and speaker embedding of mono `samples` [time].

        Raises `AudioError` for audio too short to give a token, `ModelError` where an encoder is missing.
        """
        at_16k = sinc_resample(samples, sample_rate, PROMPT_SAMPLE_RATE)
        tokens = self.stages.speech_tokenizer(at_16k)
        embedding = self.stages.speaker_encoder(at_16k)
        mel = self._mel(sinc_resample(samples, sample_rate, self.config.prompt_mel_rate))
        tokens, mel = self.align(tokens, mel)
        if len(tokens) == 0:
            raise AudioError("the reference is too short to give a single speech token; give at least 1 s")
        return ReferenceFeatures(tokens, mel, embedding)

    def align(self, tokens: IntArray, mel: FloatArray) -> tuple[IntArray, FloatArray]:
        """Reference tokens [tokens] and mel [frames, n_mels] as the flow takes them together."""
        return tokens, mel

    def transcript_text(self, transcript: str) -> str:
        """The transcript of a reference as the language model reads it."""
        return transcript

    def check_voice(self, voice: Voice) -> None:
        """Raise `VoiceError` for a voice that was made for another model."""
        config = self.config
        if voice.model and voice.model != config.name:
            raise VoiceError(
                f"the voice {voice.name!r} was made for the model {voice.model!r}, this one is "
                f"{config.name!r}; clone it again from its recording"
            )
        fits = (
            voice.mel.shape[1] == config.mel.n_mels
            and len(voice.speaker_embedding) == config.flow.speaker_embedding_dim
            and (len(voice.speech_token) == 0 or voice.speech_token.min() >= 0)
            and (len(voice.speech_token) == 0 or voice.speech_token.max() < config.llm.speech_token_size)
        )
        if not fits:
            raise VoiceError(f"the voice {voice.name!r} was made for another model; clone it again from its recording")

    def prompt(self, voice: Voice, instruct: str | None = None, text: str = "") -> Prompt:
        """Conditions of speech with `voice`; `instruct` says how to speak `text`.

        Raises `ConfigError` for an instruction that this model cannot follow, `VoiceError` for a foreign
        voice.
        """
        self.check_voice(voice)
        flow, speaker = self.flow_input(voice), voice.speaker_embedding
        if instruct is not None:
            told = self.stages.text.encode_prompt(self.instruction_text(instruct))
            return self._instructed(told, flow, speaker, self._doubts(instruct))
        tokens = voice.speech_token.tolist()
        if len(voice.prompt_text_token):
            return Prompt(voice.prompt_text_token.tolist(), tokens, flow, speaker_embedding=speaker)
        if not voice.transcript:
            return Prompt(self._cross_lingual_text(text), (), flow, speaker_embedding=speaker)
        transcript = self.transcript_text(voice.transcript)
        seconds = len(voice.speech_token) / self.token_rate
        pace = seconds / max(self.stages.text.count_phones(transcript), 1)
        return Prompt(self.stages.text.encode_prompt(transcript), tokens, flow, pace, speaker)

    def flow_input(self, voice: Voice) -> FlowInput:
        """What `voice` conditions the flow on; all of the conditions in voice conversion."""
        return FlowInput(voice.speech_token, voice.mel.astype(np.float32), voice.speaker_embedding)

    def _instructed(
        self, text: Sequence[int], flow: FlowInput, speaker: FloatArray, warnings: tuple[str, ...]
    ) -> Prompt:
        """The instruction stands for the speaker embedding, which the language model was trained without then."""
        return Prompt(text, (), flow, warnings=warnings)

    def _doubts(self, instruct: str) -> tuple[str, ...]:
        """What the user should know about an instruction."""
        return ()

    def instruction_text(self, instruct: str) -> str:
        """An instruction as the language model reads it; `ConfigError` where it follows none."""
        if not self.follows_instructions:
            raise ConfigError(f"the model {self.config.name!r} follows no instructions; leave 'instruct' out")
        return complete_instruction(instruct, self.instruction_opening)

    def _cross_lingual_text(self, text: str) -> Sequence[int]:
        """Text tokens that stand before `text` where nothing is known of the reference's."""
        return ()

    def decoding_rules(self, text_length: int, limit: int | None = None) -> DecodingRules:
        """Lengths in tokens for a text of `text_length` text tokens (prompt excluded), at most `limit`."""
        llm = self.config.llm
        maximum = int(text_length * llm.max_token_text_ratio)
        blocked = list(self.stop_ids) if llm.enforce_min_len else [llm.speech_token_size]
        minimum = int(text_length * llm.min_token_text_ratio)
        return DecodingRules(self.stop_ids, blocked, minimum, maximum if limit is None else min(maximum, limit))

    def generate(
        self, text: Sequence[int], prompt: Prompt, sampler: Sampler, limit: int | None = None
    ) -> Generator[int, None, None]:
        """Speech tokens of `text`, as the language model chose them."""
        inputs = LLMInput(text, prompt.text, prompt.speech_token, prompt.speaker_embedding)
        return decode(self.stages.llm, inputs, sampler, self.decoding_rules(len(text), limit))

    def generate_arriving(
        self, text: Iterator[Sequence[int]], prompt: Prompt, sampler: Sampler
    ) -> Generator[int, None, None]:
        """Speech tokens of text tokens that arrive in parts; see `reads_arriving_text`."""
        inputs = LLMInput((), prompt.text, prompt.speech_token)
        return decode_arriving(self.stages.llm, inputs, text, sampler)

    def spoken(self, tokens: Iterator[int]) -> Iterator[int]:
        """Those of the generated tokens that are handed to the flow."""
        return tokens


class CosyVoice2Model(CosyVoiceModel):
    """Adds tokens and mel at a fixed ratio, a causal flow for streaming, and text that arrives while it speaks."""

    @property
    def default_streaming(self) -> StreamingConfig:
        return StreamingConfig(hop=self.attention_chunk, max_hop=4 * self.attention_chunk)

    @property
    def reads_arriving_text(self) -> bool:
        return self.config.llm.bistream

    def check_streaming(self, streaming: StreamingConfig) -> None:
        streaming.check(self.attention_chunk)

    def schedule(self, streaming: StreamingConfig, prompt_tokens: int) -> ChunkSchedule:
        """The first chunk fills whole chunks together with the reference."""
        return ChunkSchedule(streaming, prompt_tokens, self.lookahead, self.attention_chunk)

    def streamed_reference(self, streaming: StreamingConfig, flow: FlowInput) -> FlowInput:
        """The reference without its very beginning, so that the first chunk can be short."""
        unused = unused_reference(streaming, len(flow.prompt_token), self.attention_chunk)
        frames = unused * round(self.config.frames_per_token)
        return FlowInput(flow.prompt_token[unused:], flow.prompt_mel[frames:], flow.speaker_embedding)

    def align(self, tokens: IntArray, mel: FloatArray) -> tuple[IntArray, FloatArray]:
        """Both cut to the shorter one, so that every token has its frames."""
        ratio = round(self.config.frames_per_token)
        count = min(len(mel) // ratio, len(tokens))
        return tokens[:count], mel[: count * ratio]

    def _instructed(
        self, text: Sequence[int], flow: FlowInput, speaker: FloatArray, warnings: tuple[str, ...]
    ) -> Prompt:
        return Prompt(text, (), flow, speaker_embedding=speaker, warnings=warnings)


class CosyVoice3Model(CosyVoice2Model):
    """Adds an end-of-prompt mark that every prompt has, and a limit to runs of silent tokens.

    Models without the mark (`end_of_prompt_id` None, such as the small one) take no instructions.
    """

    instruction_opening = DEFAULT_INSTRUCTION
    trained_languages = ("zh", "en", "ja", "yue", "ko", "de", "es", "fr", "it", "ru")

    @property
    def follows_instructions(self) -> bool:
        return self.config.follows_instructions and self.config.end_of_prompt_id is not None

    def transcript_text(self, transcript: str) -> str:
        """The transcript behind the instruction that every prompt of the released models begins with."""
        if self.config.end_of_prompt_id is None or END_OF_PROMPT in transcript:
            return transcript
        return f"{DEFAULT_INSTRUCTION}{END_OF_PROMPT}{transcript}"

    def _doubts(self, instruct: str) -> tuple[str, ...]:
        if is_known(instruct):
            return ()
        return (
            f"the instruction {instruct[:60]!r} is none of those that the released model was trained on, so it may be "
            "ignored or spoken; 'cosyvoice.engine.instructions.KNOWN_INSTRUCTIONS' lists them",
        )

    def _cross_lingual_text(self, text: str) -> Sequence[int]:
        if self.config.end_of_prompt_id is None or END_OF_PROMPT in text:
            return ()
        return self.stages.text.encode_prompt(f"{DEFAULT_INSTRUCTION}{END_OF_PROMPT}")

    def spoken(self, tokens: Iterator[int]) -> Iterator[int]:
        return thin_out_runs(tokens, frozenset(self.config.silent_tokens), self.config.max_silent_run)


_GENERATIONS: dict[str, type[CosyVoiceModel]] = {
    "v1": CosyVoiceModel,
    "v2": CosyVoice2Model,
    "v3": CosyVoice3Model,
}


def model_of(config: ModelConfig, stages: Stages) -> CosyVoiceModel:
    """The model of the generation that `config` names."""
    return _GENERATIONS[config.generation](config, stages)
