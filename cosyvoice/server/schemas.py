"""Bodies of requests and answers, as the OpenAPI document shows them.

Names are OpenAI's, and for extensions those that other servers of this API use already. Fields that are not known
are passed over, since clients send what other servers understand.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from cosyvoice.engine.sampling import HIGHEST_TEMPERATURE
from cosyvoice.server.encoding import AudioFormat

Text = Annotated[str, StringConstraints(min_length=1)]
TaskType = Literal["CustomVoice", "Base", "VoiceDesign", "sft", "zero_shot", "cross_lingual", "instruct"]
LARGEST_SEED = 2**53 - 1
"""The largest whole number that every JSON parser reads exactly."""


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """OpenAI's error shape."""

    error: ErrorDetail


class VoiceId(BaseModel):
    """A voice, the way OpenAI names custom ones."""

    id: Text


class NormalizationOptions(BaseModel):
    """How a text is prepared; further fields that other servers know are passed over."""

    model_config = ConfigDict(strict=True)

    normalize: bool | None = Field(
        None, description="false reads the text as it stands, in one piece, without spelling out numbers."
    )


class SpeechOptions(BaseModel):
    """How to speak; a batch has these for all its items, and each item may have its own."""

    # Strict, since pydantic otherwise takes "yes" and 0.0 for booleans.
    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())

    voice: Text | VoiceId | None = Field(None, description="Name of a voice, or OpenAI's name for one.")
    instructions: str | None = Field(None, max_length=4096, description="How to say it, where the model can be told.")
    response_format: AudioFormat | None = Field(None, description="mp3 where it is left out.")
    speed: float | None = Field(None, ge=0.25, le=4.0)
    ref_audio: Text | None = Field(
        None, description="A recording to speak like: base64, a data URL, or a URL of a host that the server allows."
    )
    ref_text: str | None = Field(None, max_length=4096, description="What the recording says.")
    x_vector_only_mode: bool | None = Field(None, description="Do not use `ref_text`.")
    task_type: TaskType | None = Field(None, description="What is meant, where it should be checked.")
    language: str | None = Field(
        None,
        max_length=64,
        description="A name such as English, a code such as en or en-US, or auto: the language is told from the text.",
    )
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED, description="The same seed gives the same samples.")
    chunk_tokens: int | None = Field(None, ge=1, le=1000, description="Speech tokens of the first chunk.")
    volume_multiplier: float | None = Field(None, ge=0.0, le=4.0)
    top_k: int | None = Field(None, ge=1, le=LARGEST_SEED, description="Candidates of each draw; the model's own else.")
    top_p: float | None = Field(None, gt=0.0, le=1.0, description="What the candidates' probabilities add up to.")
    temperature: float | None = Field(None, ge=0.0, le=HIGHEST_TEMPERATURE, description="1 where it is left out.")
    max_new_tokens: int | None = Field(
        None, ge=1, le=LARGEST_SEED, description="The speech ends after as much as so many speech tokens make."
    )
    normalization_options: NormalizationOptions | None = None
    return_download_link: bool | None = Field(None, description="Has no effect: nothing that is spoken is kept.")

    @field_validator("seed", "chunk_tokens", "top_k", "max_new_tokens", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """In JSON, 5.0 is a whole number."""
        return int(value) if isinstance(value, float) and value.is_integer() else value


class SpeechBody(SpeechOptions):
    """`POST /v1/audio/speech`."""

    model: str | None = Field(None, max_length=256, description="The name of the model or an alias of it.")
    input: Text = Field(description="The text to speak.")
    stream_format: Literal["audio", "sse"] | None = Field(None, description="audio where it is left out.")
    stream: bool | None = Field(None, description="true asks for server-sent events, as `stream_format` does.")
    return_timestamps: bool | None = Field(
        None,
        description="When each word is spoken: in the last event, or without events in JSON with the audio in base64. "
        "English only.",
    )
    return_timing: bool | None = Field(
        None, description="Answer when all is spoken, with the timings in a header; with events, in the last one."
    )


class BatchItem(SpeechOptions):
    """One text of a batch."""

    input: Text


class BatchBody(SpeechOptions):
    """`POST /v1/audio/speech/batch`."""

    model: str | None = Field(None, max_length=256)
    items: list[BatchItem] = Field(min_length=1)


class Usage(BaseModel):
    """Characters in, speech tokens out."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class BatchResult(BaseModel):
    """What became of one text."""

    index: int
    status: Literal["success", "error"]
    audio_data: str | None = Field(None, description="A complete file in base64.")
    media_type: str | None = None
    usage: Usage | None = None
    error: ErrorDetail | None = None


class BatchAnswer(BaseModel):
    """Results in the order of the items."""

    id: str
    results: list[BatchResult]
    total: int
    succeeded: int
    failed: int


class Model(BaseModel):
    """A model as OpenAI lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "cosyvoice"


class ModelList(BaseModel):
    """The model and the names it also answers to."""

    object: Literal["list"] = "list"
    data: list[Model]


class AudioModel(BaseModel):
    """A model by its name alone."""

    id: str


class AudioModelList(BaseModel):
    """The list that Open WebUI reads."""

    models: list[AudioModel]


class VoiceItem(BaseModel):
    """A voice that can be asked for."""

    id: str
    name: str


class UploadedVoice(BaseModel):
    """A voice that was uploaded."""

    name: str
    consent: str
    provenance: str
    ref_text: str
    speaker_description: str
    gender: str
    file_size: int


class VoiceList(BaseModel):
    """All voices; the uploaded ones with what is known of them."""

    voices: list[VoiceItem]
    uploaded_voices: list[UploadedVoice]
    aliases: dict[str, str]


class VoiceAdded(BaseModel):
    """The answer to an upload."""

    success: Literal[True] = True
    voice: UploadedVoice
    warnings: list[str] = Field(description="What may be wrong with the recording or its transcript.")


class VoiceDeleted(BaseModel):
    """The answer to a deletion."""

    success: Literal[True] = True
    message: str


class SpeechTimings(BaseModel):
    """What a request cost, in seconds."""

    request_id: str
    seed: int
    queue: float
    time_to_first_audio: float
    total: float
    audio: float
    rtf: float
    retries: int
    stages: dict[str, float]
    warnings: list[str]


class WordTimes(BaseModel):
    """When a word is spoken, in seconds from the beginning."""

    word: str
    start: float
    end: float
    score: float = Field(description="0 to 1; below 0.2 the word was hardly said.")


class SpeechAnswer(BaseModel):
    """Speech with the times of its words."""

    audio: str = Field(description="A complete file in base64.")
    media_type: str
    timestamps: list[WordTimes]
    usage: Usage
    timings: SpeechTimings | None = None
