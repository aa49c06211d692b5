"""Typed settings of the trainings; the Hydra files in `cosyvoice/conf` are checked against them."""

from __future__ import annotations

from pydantic import Field

from cosyvoice.config.base import StrictModel
from cosyvoice.config.model import (
    FlowConfig,
    HiFTConfig,
    LLMConfig,
    SpeakerEncoderConfig,
    SpeechTokenizerConfig,
)


class LoopSettings(StrictModel):
    """How long and how a training runs."""

    steps: int = Field(1000, ge=1)
    minutes: float = Field(0.0, ge=0, description="end after so much training time; 0: no limit")
    rate: float = Field(1e-3, gt=0, description="peak learning rate")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the run")
    decay: float = Field(0.01, ge=0, description="weight decay")
    clip: float = 1.0
    ema_decay: float = 0.999
    seed: int = 1
    device: str = "auto"
    threads: int = 1
    bf16: bool = True
    log_every: int = 50
    validate_every: int = 500
    save_minutes: float = 5.0
    initial: str = Field(
        "", description="folder of a finished run of the same stage whose averaged weights this one begins with"
    )


class StageSettings(StrictModel):
    """What the settings of every training have in common."""

    loop: LoopSettings


class TokenizerSettings(StageSettings):
    """Training of the speech tokenizer."""

    model: SpeechTokenizerConfig = SpeechTokenizerConfig()
    batch_seconds: float = 64.0


class SpeakerSettings(StageSettings):
    """Training of the speaker encoder."""

    model: SpeakerEncoderConfig = SpeakerEncoderConfig()
    batch: int = 48
    crop_seconds: float = 1.8


class LLMSettings(StageSettings):
    """Training of the language model."""

    model: LLMConfig = LLMConfig()
    batch_tokens: int = Field(2800, description="text and speech tokens a batch, padding included")
    pair_share: float = Field(0.5, ge=0, le=1, description="items made of two utterances of one speaker")
    guide_layer: int = Field(2, description="layer whose first head is taught to attend to the spoken phone")
    guide_weight: float = 0.3


class FlowSettings(StageSettings):
    """Training of the flow."""

    model: FlowConfig = FlowConfig()
    batch_frames: int = 2600


class VocoderSettings(StageSettings):
    """Training of the vocoder and of its F0 predictor."""

    model: HiFTConfig = HiFTConfig()
    batch: int = 8
    segment_frames: int = 32
    mel_weight: float = 1.0
    stft_weight: float = 1.0
    f0_weight: float = 1.0
    gan_start: float = Field(1.0, ge=0, le=1, description="share of the run after which discriminators join; 1: never")
    gan_weight: float = Field(0.1, ge=0, description="of adversarial and feature matching losses")
    gan_period_channels: tuple[int, ...] = Field(
        (16, 32, 64, 128), description="of the period discriminators; the released ones have (32, 128, 512, 1024, 1024)"
    )
    gan_spectrum_channels: int = Field(8, description="of the spectrum discriminators; the released ones have 32")


class CorpusSettings(StrictModel):
    """What the corpus holds. Speakers are the base voices and warped copies of them."""

    seed: int = 1
    sentences: int = 15000
    shares: tuple[float, float, float] = (0.3, 0.1, 0.6)
    """Shares of fortunes, Bible and generated sentences."""
    base_sentences: int = 450
    """Sentences that an unwarped base voice speaks for each of its shares."""
    speakers: int = 160
    """Warped training speakers."""
    speaker_sentences: int = 30
    validation_speakers: int = 8
    test_speakers: int = 14
    held_out_sentences: int = 16
    block: int = 60
    """Sentences a shard."""
