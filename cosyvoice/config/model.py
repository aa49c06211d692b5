"""Typed configuration of the three networks. The defaults are those of the released Fun-CosyVoice3-0.5B.

A model directory of our own holds one `config.json` with a `ModelConfig`; a released directory holds a YAML file
that `cosyvoice.config.released` translates into the same object.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cosyvoice.config.base import StrictModel


class SamplingConfig(StrictModel):
    """Repetition-aware sampling (RAS): nucleus sampling with a fallback when a token repeats too often."""

    top_p: float = Field(0.8, gt=0, le=1)
    top_k: int = Field(25, ge=1)
    win_size: int = Field(10, ge=0, description="how many of the last tokens are searched for repetitions")
    tau_r: float = Field(0.1, ge=0, description="fallback when a token fills win_size*tau_r of the window")


class Qwen2Config(StrictModel):
    """Geometry of the Qwen2 decoder."""

    hidden_size: int = 896
    num_layers: int = 24
    num_heads: int = 14
    num_kv_heads: int = 2
    intermediate_size: int = 4864
    vocab_size: int = 151936
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    dropout: float = Field(0.0, ge=0, lt=1, description="residual dropout in training; the released model has none")


class LLMConfig(StrictModel):
    """`CosyVoice3LM`: text tokens in, speech tokens out."""

    qwen: Qwen2Config = Qwen2Config()
    speech_token_size: int = Field(6561, description="V, the number of speech tokens")
    speech_extra_tokens: int = Field(200, description="rows behind the V speech tokens: sos, eos, task, fill, unused")
    length_normalized_loss: bool = True
    label_smoothing: float = 0.0
    mix_ratio: tuple[int, int] = Field((5, 15), description="text:speech tokens of a bistream block")
    sampling: SamplingConfig = SamplingConfig()
    min_token_text_ratio: float = 2.0
    max_token_text_ratio: float = 20.0
    enforce_min_len: bool = Field(
        False,
        description="block every id that would stop before the minimum length, and every id that a text-streaming "
        "sequence cannot hold; the released V3 blocks only the id V, which never stops it",
    )
    released_stream_end: bool = Field(
        True,
        description="when a streamed text ends, feed the last row again after a fill token and leave out prompt speech "
        "that was not read yet, as the released models do; false keeps to the training layout",
    )


class CFMConfig(StrictModel):
    """Conditional flow matching."""

    sigma_min: float = 1e-6
    solver: Literal["euler", "rk4"] = "euler"
    t_scheduler: Literal["cosine", "linear"] = "cosine"
    training_cfg_rate: float = Field(0.2, ge=0, le=1)
    inference_cfg_rate: float = Field(0.7, ge=0)
    n_timesteps: int = Field(10, ge=1)


class DiTConfig(StrictModel):
    """The diffusion transformer that estimates the velocity."""

    dim: int = 1024
    depth: int = 22
    heads: int = 16
    dim_head: int = 64
    ff_mult: int = 2
    mel_dim: int = 80
    mu_dim: int = 80
    spk_dim: int = 80
    out_channels: int = 80
    static_chunk_size: int = Field(50, description="mel frames of an attention chunk in streaming")
    num_decoding_left_chunks: int = -1
    conv_pos_groups: int = 16


class FlowConfig(StrictModel):
    """`CausalMaskedDiffWithDiT`: speech tokens to mel."""

    vocab_size: int = 6561
    mel_dim: int = 80
    speaker_embedding_dim: int = 192
    input_frame_rate: int = Field(25, description="speech tokens a second (Hz)")
    token_mel_ratio: int = 2
    pre_lookahead_len: int = 3
    pre_lookahead_channels: int = 1024
    mel_mean: float = Field(0.0, description="subtracted from log-mel before the network; the released models use 0")
    mel_std: float = Field(1.0, gt=0, description="divides log-mel after that; the released models use 1")
    cfm: CFMConfig = CFMConfig()
    dit: DiTConfig = DiTConfig()


class HiFTConfig(StrictModel):
    """Causal HiFT vocoder: mel to samples."""

    in_channels: int = 80
    base_channels: int = 512
    nb_harmonics: int = 8
    sampling_rate: int = 24000
    nsf_alpha: float = 0.1
    nsf_sigma: float = 0.003
    nsf_voiced_threshold: float = 10.0
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernel_sizes: tuple[int, ...] = (16, 11, 7)
    istft_n_fft: int = 16
    istft_hop: int = 4
    free_phase: bool = Field(
        False,
        description="the network's output is the phase itself; the released vocoder takes its sine, which is enough "
        "for frames of 16 samples only",
    )
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    source_resblock_kernel_sizes: tuple[int, ...] = (7, 7, 11)
    source_resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    lrelu_slope: float = 0.1
    audio_limit: float = 0.99
    conv_pre_look_right: int = 4
    f0_channels: int = Field(512, description="hidden channels of the F0 predictor")
    f0_in_float64: bool = Field(True, description="the released vocoder predicts F0 in double precision")
    mel_mean: float = Field(
        0.0, description="subtracted from log-mel before the F0 predictor; the released models use 0"
    )
    mel_std: float = Field(1.0, gt=0, description="divides log-mel after that; the released models use 1")
    final_silence: int = Field(
        0,
        ge=0,
        description="frames of silence that a finished utterance is given as right context, and whose samples are cut "
        "off again; the released vocoder takes zeros, which are loud log-mel, for context",
    )
    source_phase: Literal["frame", "sample"] = Field(
        "frame",
        description="'frame' holds the phase of every harmonic within one hop, as the released V3 does; "
        "'sample' accumulates it sample by sample, so that the source is a true sine",
    )


class SpeechTokenizerConfig(StrictModel):
    """Our own speech tokenizer; a released model brings an ONNX file instead."""

    n_mels: int = Field(128, description="bins of the input features (100 Hz)")
    channels: int = 256
    encoder_blocks: int = 5
    decoder_blocks: int = 2
    fsq_channels: int = 6
    fsq_levels: int = 3
    phones: int = Field(40, description="phone classes of the recogniser, pause included")
    mel_bins: int = 80
    dropout: float = Field(0.0, ge=0, lt=1)


class SpeakerEncoderConfig(StrictModel):
    """Our own speaker encoder; a released model brings an ONNX file instead."""

    n_mels: int = 80
    channels: int = 192
    embedding_dim: int = 192


class MelConfig(StrictModel):
    """Log-mel features that flow and vocoder share."""

    sample_rate: int = 24000
    n_fft: int = 1920
    hop_size: int = 480
    win_size: int = 1920
    n_mels: int = 80
    fmin: float = 0.0
    fmax: float | None = None


class ModelConfig(StrictModel):
    """A whole model: what `config.json` of a model directory holds."""

    format_version: Literal[1] = 1
    name: str = "cosyvoice3"
    generation: Literal["v1", "v2", "v3"] = "v3"
    tokenizer: Literal["qwen2", "phones"] = "qwen2"
    llm: LLMConfig = LLMConfig()
    flow: FlowConfig = FlowConfig()
    hift: HiFTConfig = HiFTConfig()
    mel: MelConfig = MelConfig()
    end_of_prompt_id: int | None = Field(
        151646, description="id of <|endofprompt|>, required in V3 prompts; None: no such mark"
    )
    silent_tokens: tuple[int, ...] = ()
    max_silent_run: int = Field(5, description="silent tokens beyond this many in a row are dropped")
