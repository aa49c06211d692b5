"""What a conversion costs in quality: the same inputs through two sets of stages, and how far the results are apart.

Each stage gets inputs of its own, so that an error in one does not show in the next. The inputs are fixed:
random ids, and the reference mel of a voice where the model brings one.
"""

from __future__ import annotations

import numpy as np

from cosyvoice.config.model import ModelConfig
from cosyvoice.engine.stages import FloatArray, FlowInput, LLMInput, LLMStage, MelChunk, Stages, TokenChunk
from cosyvoice.voice.voice import Voice

TEXT_TOKENS = 20
SPEECH_TOKENS = 40
PROMPT_TOKENS = 25


def compare_stages(
    expected: Stages, stages: Stages, config: ModelConfig, voice: Voice | None = None
) -> dict[str, float]:
    """Distances of `stages` from `expected`, on fixed inputs.

    Returns:
        `llm_kl`: mean Kullback-Leibler divergence (nats) of the next-token distributions; `flow_mel_error`:
        norm of the difference of the mel relative to the norm of its deviation from the mean; `vocoder_snr`:
        signal to noise ratio of the samples in dB.
    """
    rng = np.random.default_rng(0)
    size = config.llm.speech_token_size
    tokens = rng.integers(0, size, SPEECH_TOKENS)
    scores = [_scores(part.llm, _prompt(config), tokens.tolist()) for part in (expected, stages)]
    flow = _flow_input(config, voice, rng)
    chunk = TokenChunk(tokens.tolist(), finalize=True, chunk_masks=False)
    mels = [part.flow.step(chunk, part.flow.init_state(flow))[0] for part in (expected, stages)]
    last = MelChunk(mels[0], finalize=True)
    samples = [part.vocoder.step(last, part.vocoder.init_state())[0] for part in (expected, stages)]
    return {
        "llm_kl": divergence(*scores),
        "flow_mel_error": relative_error(*mels),
        "vocoder_snr": signal_to_noise(*samples),
    }


def divergence(expected: FloatArray, scores: FloatArray) -> float:
    """Mean KL divergence (nats) of log-probabilities [rows, outputs] from the expected ones."""
    p = np.exp(expected.astype(np.float64))
    return float((p * (expected.astype(np.float64) - scores)).sum(axis=1).mean())


def relative_error(expected: FloatArray, values: FloatArray) -> float:
    """Norm of the difference over the norm of what varies in `expected` [frames, channels]."""
    varying = expected - expected.mean(axis=0)
    return float(np.linalg.norm(values - expected) / max(float(np.linalg.norm(varying)), 1e-12))


def signal_to_noise(expected: FloatArray, samples: FloatArray) -> float:
    """Ratio of the power of `expected` [time] and of the difference, in dB; at most 200."""
    noise = float(np.square(samples - expected, dtype=np.float64).sum())
    signal = float(np.square(expected, dtype=np.float64).sum())
    return float(min(10 * np.log10(max(signal, 1e-20) / max(noise, 1e-20)), 200.0))


def _scores(stage: LLMStage, inputs: LLMInput, tokens: list[int]) -> FloatArray:
    """Log-probabilities [tokens + 1, outputs] while `tokens` are said, whatever the model would have said."""
    state = stage.init_state(inputs)
    try:
        rows = []
        for token in [None, *tokens]:
            row, state = stage.step(token, state)
            rows.append(row)
    finally:
        stage.release(state)
    return np.stack(rows)


def _prompt(config: ModelConfig) -> LLMInput:
    rng = np.random.default_rng(1)
    vocabulary = min(config.llm.text_token_size, config.end_of_prompt_id or config.llm.text_token_size)
    text = rng.integers(0, vocabulary, TEXT_TOKENS).tolist()
    prompt = [] if config.end_of_prompt_id is None else [config.end_of_prompt_id]
    speech = rng.integers(0, config.llm.speech_token_size, PROMPT_TOKENS).tolist()
    return LLMInput(text, prompt, speech, _speaker(config, rng))


def _speaker(config: ModelConfig, rng: np.random.Generator) -> FloatArray:
    return rng.standard_normal(config.flow.speaker_embedding_dim).astype(np.float32)


def _flow_input(config: ModelConfig, voice: Voice | None, rng: np.random.Generator) -> FlowInput:
    if voice is not None:
        return FlowInput(voice.speech_token, voice.mel.astype(np.float32), voice.speaker_embedding)
    flow = config.flow
    tokens = rng.integers(0, flow.vocab_size, PROMPT_TOKENS).astype(np.int32)
    frames = int(PROMPT_TOKENS * config.frames_per_token)
    mel = rng.normal(-6.0, 2.0, (frames, flow.mel_dim)).astype(np.float32)
    return FlowInput(tokens, mel, _speaker(config, rng))
