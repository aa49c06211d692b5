"""Typed configuration of the three networks of every generation. The defaults are those of the released models.

Language model and flow of a generation differ in kind, and `kind` names it; without one, the networks are those of the
third generation.

A model directory of our own holds one `config.json` with a `ModelConfig`; a released directory holds a YAML file
that `cosyvoice.config.released` translates into the same object.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

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


class EncoderConfig(StrictModel):
    """A stack of self-attention layers with relative positions, as in ESPnet; no convolution modules, no macaron."""

    layer: Literal["conformer", "transformer"] = "conformer"
    """Conformer layers have SiLU in the feed-forward, Transformer layers ReLU; the norms have other names."""
    input_layer: Literal["linear", "linear_legacy"] = "linear"
    """`linear_legacy` has a ReLU before the embedding is scaled."""
    input_size: int = 512
    output_size: int = 512
    attention_heads: int = 8
    linear_units: int = 2048
    num_blocks: int = 6
    static_chunk_size: int = Field(0, ge=0, description="rows of an attention chunk: 1 is causal, 0 is full attention")
    dropout: float = Field(0.0, ge=0, lt=1, description="in training: of the embedding, in and behind every layer")


class TransformerLMConfig(StrictModel):
    """`TransformerLM` of the first generation: whisper text tokens and a speaker embedding in, speech tokens out."""

    kind: Literal["transformer"] = "transformer"
    text_token_size: int = Field(51866, description="rows of the text embedding")
    speech_token_size: int = Field(4096, description="V, the number of speech tokens; output V is eos")
    speaker_embedding_dim: int = 192
    text_encoder: EncoderConfig = EncoderConfig(
        input_size=512, output_size=1024, attention_heads=16, linear_units=4096, num_blocks=6, static_chunk_size=1
    )
    llm: EncoderConfig = EncoderConfig(
        layer="transformer", input_layer="linear_legacy", input_size=1024, output_size=1024, attention_heads=16,
        linear_units=4096, num_blocks=14, static_chunk_size=1,
    )  # fmt: skip
    length_normalized_loss: bool = True
    label_smoothing: float = 0.0
    sampling: SamplingConfig = SamplingConfig()
    min_token_text_ratio: float = 2.0
    max_token_text_ratio: float = 20.0
    enforce_min_len: bool = True
    bistream: Literal[False] = False

    @property
    def speech_extra_tokens(self) -> int:
        """Output ids behind the V speech tokens: eos alone."""
        return 1


class LLMConfig(StrictModel):
    """`Qwen2LM` and `CosyVoice3LM`: text tokens in, speech tokens out."""

    kind: Literal["qwen2"] = "qwen2"
    task_embedding: bool = Field(
        False,
        description="sos and task are rows of a table of their own, and the head has a bias, as in the second "
        "generation; the third keeps them in the speech embedding",
    )
    qwen: Qwen2Config = Qwen2Config()
    speech_token_size: int = Field(6561, description="V, the number of speech tokens")
    speech_extra_tokens: int = Field(200, description="rows behind the V speech tokens: sos, eos, task, fill, unused")
    length_normalized_loss: bool = True
    label_smoothing: float = 0.0
    mix_ratio: tuple[int, int] = Field((5, 15), description="text:speech tokens of a bistream block")
    sampling: SamplingConfig = SamplingConfig()
    min_token_text_ratio: float = 2.0
    max_token_text_ratio: float = 20.0
    bistream: bool = Field(True, description="trained to speak while its text is still arriving")
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

    @property
    def text_token_size(self) -> int:
        """Rows of the text embedding."""
        return self.qwen.vocab_size

    @property
    def speaker_embedding_dim(self) -> None:
        """The speaker embedding is not read."""
        return None


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


class UNetConfig(StrictModel):
    """The U-Net of convolutions and attention that estimates the velocity in the first two generations."""

    in_channels: int = 320
    out_channels: int = 80
    channels: tuple[int, ...] = (256, 256)
    attention_head_dim: int = 64
    num_heads: int = 8
    n_blocks: int = Field(4, description="attention blocks behind every residual block")
    num_mid_blocks: int = 12
    causal: bool = False
    static_chunk_size: int = Field(50, description="mel frames of an attention chunk in streaming; causal nets only")


class _FlowConfig(StrictModel):
    """What the flows of all generations have."""

    mel_dim: int = 80
    speaker_embedding_dim: int = 192
    mel_mean: float = Field(0.0, description="subtracted from log-mel before the network; the released models use 0")
    mel_std: float = Field(1.0, gt=0, description="divides log-mel after that; the released models use 1")
    cfm: CFMConfig = CFMConfig()


class _CausalFlowConfig(_FlowConfig):
    """What the flows have that run chunk by chunk."""

    vocab_size: int = 6561
    input_frame_rate: int = Field(25, description="speech tokens a second (Hz)")
    token_mel_ratio: int = 2
    pre_lookahead_len: int = 3

    @property
    def lookahead(self) -> int:
        """Tokens that a streamed chunk only looks at."""
        return self.pre_lookahead_len


class MaskedDiffConfig(_FlowConfig):
    """`MaskedDiffWithXvec` of the first generation: speech tokens to mel, not causal."""

    kind: Literal["masked_diff"] = "masked_diff"
    vocab_size: int = 4096
    input_frame_rate: int = Field(50, description="speech tokens a second (Hz)")
    encoder: EncoderConfig = EncoderConfig()
    regulator_layers: int = Field(4, description="convolutions of the length regulator with norm and activation")
    overlap_tokens: int = Field(20, description="tokens of a streamed chunk that the next one computes again")
    cached_frames: int = Field(
        34, ge=1, description="latest mel frames whose start noise and encoder output the next chunk takes over"
    )
    sample_rate: int = Field(22050, description="Hz of the speech that the mel belongs to")
    hop_size: int = Field(256, ge=1, description="samples of a mel frame")
    unet: UNetConfig = UNetConfig()

    def mel_frames(self, tokens: int) -> int:
        """Mel frames that `tokens` speech tokens take, rounded down."""
        return int(tokens / self.input_frame_rate * self.sample_rate / self.hop_size)

    @property
    def overlap_frames(self) -> int:
        """Mel frames of the overlap, in which two chunks are cross-faded."""
        return self.mel_frames(self.overlap_tokens)

    @property
    def lookahead(self) -> int:
        """Tokens that a streamed chunk only looks at."""
        return self.overlap_tokens

    @property
    def attention_chunk(self) -> int:
        """Tokens of an attention chunk: none is masked, so any number."""
        return 1


class CausalMaskedDiffConfig(_CausalFlowConfig):
    """`CausalMaskedDiffWithXvec` of the second generation: speech tokens to mel, chunk by chunk."""

    kind: Literal["causal_masked_diff"] = "causal_masked_diff"
    encoder: EncoderConfig = EncoderConfig(static_chunk_size=25)
    up_blocks: int = Field(4, description="layers behind the upsampling")
    unet: UNetConfig = UNetConfig(channels=(256,), causal=True)

    @property
    def attention_chunk(self) -> int:
        """Tokens of an attention chunk."""
        return self.unet.static_chunk_size // self.token_mel_ratio


class FlowConfig(_CausalFlowConfig):
    """`CausalMaskedDiffWithDiT` of the third generation: speech tokens to mel, chunk by chunk."""

    kind: Literal["dit"] = "dit"
    pre_lookahead_channels: int = 1024
    dit: DiTConfig = DiTConfig()

    @property
    def attention_chunk(self) -> int:
        """Tokens of an attention chunk."""
        return self.dit.static_chunk_size // self.token_mel_ratio


class HiFTConfig(StrictModel):
    """HiFT vocoder: mel to samples."""

    causal: bool = Field(True, description="false: the vocoder of the first two generations, which sees both sides")
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
    source_phase: Literal["frame", "sample", "linear"] = Field(
        "frame",
        description="'frame' holds the phase of every harmonic within one hop, as the released V3 does; "
        "'linear' interpolates it between hops, as V2 does; 'sample' accumulates it sample by sample, so that the "
        "source is a true sine, as in V1",
    )
    joint_frames: int = Field(
        8, ge=0, description="mel frames of the last chunk that a streamed chunk of a non-causal vocoder begins with"
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


def _kind(value: Any) -> str | None:
    """The `kind` of a configuration given as data or as object."""
    return value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)


AnyLLMConfig = Annotated[
    Annotated[LLMConfig, Tag("qwen2")] | Annotated[TransformerLMConfig, Tag("transformer")],
    Discriminator(lambda value: _kind(value) or "qwen2"),
]
AnyFlowConfig = Annotated[
    Annotated[FlowConfig, Tag("dit")]
    | Annotated[CausalMaskedDiffConfig, Tag("causal_masked_diff")]
    | Annotated[MaskedDiffConfig, Tag("masked_diff")],
    Discriminator(lambda value: _kind(value) or "dit"),
]


class ModelConfig(StrictModel):
    """A whole model: what `config.json` of a model directory holds."""

    format_version: Literal[1] = 1
    name: str = "cosyvoice3"
    generation: Literal["v1", "v2", "v3"] = "v3"
    tokenizer: Literal["qwen2", "whisper", "phones"] = "qwen2"
    llm: AnyLLMConfig = LLMConfig()
    flow: AnyFlowConfig = FlowConfig()
    hift: HiFTConfig = HiFTConfig()
    mel: MelConfig = MelConfig()
    prompt_rate: int | None = Field(
        None,
        ge=8000,
        description="Hz, to which a reference is resampled before its mel is taken; None: that of the mel. The "
        "released first generation took 24000 for a mel of 22050",
    )
    follows_instructions: bool = Field(True, description="whether the model was trained to be told how to speak")
    end_of_prompt_id: int | None = Field(
        151646, description="id of <|endofprompt|>, required in V3 prompts; None: no such mark"
    )
    silent_tokens: tuple[int, ...] = ()
    max_silent_run: int = Field(5, description="silent tokens beyond this many in a row are dropped")
    released: bool = Field(
        False, description="the weights are those of a released model, with its fixed noise, in another format"
    )

    @property
    def prompt_mel_rate(self) -> int:
        """Hz of the samples that the mel of a reference is taken from."""
        return self.prompt_rate or self.mel.sample_rate

    @property
    def frames_per_token(self) -> float:
        """Mel frames that a speech token lasts; a whole number from the second generation on."""
        return self.mel.sample_rate / self.mel.hop_size / self.flow.input_frame_rate
