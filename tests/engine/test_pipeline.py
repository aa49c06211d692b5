from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from cosyvoice.engine.pipeline import TTS
from cosyvoice.engine.speech import Chunk
from cosyvoice.engine.stages import LLMInput
from cosyvoice.engine.streaming import StreamingConfig
from cosyvoice.errors import AudioError, ConfigError, TextError, VoiceError
from cosyvoice.voice.voice import Voice

TEXT = "Hello world, this is a test of a sentence of some length."


@pytest.fixture
def no_compute(tiny_tts: TTS, monkeypatch: pytest.MonkeyPatch) -> TTS:
    """The model with stages that must not be reached."""

    def fail(*_: object) -> None:
        raise AssertionError("a network ran")

    stages = tiny_tts.model.stages
    for stage, method in ((stages.llm, "step"), (stages.flow, "step"), (stages.vocoder, "step")):
        monkeypatch.setattr(stage, method, fail)
    for encoder in (stages.speech_tokenizer, stages.speaker_encoder):
        monkeypatch.setattr(type(encoder), "__call__", fail)
    return tiny_tts


def test_the_same_seed_gives_the_same_samples(tiny_tts: TTS) -> None:
    first, again, other = (tiny_tts.say("Hello there.", seed=seed).samples for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_a_drawn_seed_is_told(tiny_tts: TTS) -> None:
    speech = tiny_tts.say("Hello there.")
    np.testing.assert_array_equal(tiny_tts.say("Hello there.", seed=speech.report.seed).samples, speech.samples)


def test_the_global_generators_are_left_alone(tiny_tts: TTS) -> None:
    import torch

    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global one is meant
    tiny_tts.say("Hello there.", seed=1)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_speech_is_mono_float32_and_reported(tiny_tts: TTS) -> None:
    speech = tiny_tts.say("Hello there. And here comes a second sentence.", "bert", seed=1)
    assert (speech.samples.dtype, speech.samples.ndim, speech.sample_rate) == (np.float32, 1, 24000)
    assert np.abs(speech.samples).max() <= 1
    report = speech.report
    assert report.samples == len(speech.samples) and report.duration == speech.duration
    assert 0 < report.time_to_first_audio <= report.seconds
    assert "".join(piece.text for piece in report.pieces).startswith("Hello")
    assert set(report.stage_seconds) == {"text", "llm", "flow", "vocoder"}


def joined(stream: Iterable[Chunk]) -> np.ndarray:
    return np.concatenate([chunk.samples for chunk in stream])


@pytest.fixture(scope="module")
def consistent(tiny_tts: TTS) -> list[Chunk]:
    """A stream of three chunks."""
    return list(tiny_tts.stream(TEXT, seed=3))


def test_a_stream_joins_to_what_say_gives(tiny_tts: TTS, consistent: list[Chunk]) -> None:
    assert len(consistent) > 2
    speech = tiny_tts.say(TEXT, seed=3, streaming=StreamingConfig())
    np.testing.assert_array_equal(joined(consistent), speech.samples)


def test_consistent_streams_do_not_depend_on_chunk_sizes(tiny_tts: TTS, consistent: list[Chunk]) -> None:
    other = list(tiny_tts.stream(TEXT, seed=3, streaming=StreamingConfig(25, 1, 25)))
    assert [len(chunk.samples) for chunk in other] != [len(chunk.samples) for chunk in consistent]
    assert joined(other).shape == joined(consistent).shape
    np.testing.assert_allclose(joined(other), joined(consistent), atol=1e-3)


def test_released_streams_differ_at_the_end_only(tiny_tts: TTS, consistent: list[Chunk]) -> None:
    ours = joined(consistent)
    released = joined(tiny_tts.stream(TEXT, seed=3, streaming=StreamingConfig(mode="released")))
    np.testing.assert_array_equal(ours[:20000], released[:20000])
    assert len(ours) == len(released)
    assert not np.array_equal(ours, released)


def test_abandoned_streams_leave_nothing(tiny_tts: TTS, consistent: list[Chunk]) -> None:
    for count in (0, 1):
        stream = tiny_tts.stream(TEXT, seed=3)
        for _ in range(count):
            next(stream)
        stream.close()
    again = tiny_tts.stream(TEXT, seed=3)
    np.testing.assert_array_equal(next(again).samples, consistent[0].samples)


def test_many_threads_share_a_model(tiny_tts: TTS) -> None:
    expected = {seed: tiny_tts.say("Hello there.", seed=seed).samples for seed in range(3)}
    found: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        found[seed] = tiny_tts.say("Hello there.", seed=seed).samples

    threads = [threading.Thread(target=work, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, samples in expected.items():
        np.testing.assert_array_equal(found[seed], samples)


def test_cloning_with_and_without_transcript(
    tiny_tts: TTS, write_wav: Callable[..., Path], make_speech: Callable[..., np.ndarray]
) -> None:
    path = write_wav(make_speech(2.0), name="my voice (1).wav")
    plain = tiny_tts.clone(path)
    assert (plain.name, plain.transcript, plain.model) == ("my-voice--1", "", "tiny")
    assert len(plain.mel) == 2 * len(plain.speech_token) == pytest.approx(100, abs=4)
    assert "my voice (1).wav" in plain.provenance
    full = tiny_tts.clone(path, "please call me later today", name="joe", consent="by myself")
    assert (full.transcript, full.consent) == ("please call me later today", "by myself")
    inputs: list[LLMInput] = []
    original = tiny_tts.model.stages.llm.init_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_tts.model.stages.llm, "init_state", lambda given: (inputs.append(given), original(given))[1])
        tiny_tts.say("Hello.", plain, seed=1)
        tiny_tts.say("Hello.", full, seed=1)
    assert (len(inputs[0].prompt_text), len(inputs[0].prompt_speech_token)) == (0, 0)
    assert list(inputs[-1].prompt_speech_token) == full.speech_token.tolist()
    assert list(inputs[-1].prompt_text) == tiny_tts.model.stages.text.encode("please call me later today")


def test_a_saved_voice_speaks_the_same_samples(tiny_tts: TTS, reference_wav: Path, tmp_path: Path) -> None:
    voice = tiny_tts.clone(reference_wav)
    saved = Voice.load(voice.save(tmp_path / "v.safetensors"))
    np.testing.assert_array_equal(
        tiny_tts.say("Hello.", voice, seed=1).samples, tiny_tts.say("Hello.", saved, seed=1).samples
    )


def test_voices_by_name(tiny_tts: TTS, reference_wav: Path) -> None:
    assert tiny_tts.voices() == ["anna", "bert"]
    assert tiny_tts.voice().name == "anna"
    with pytest.raises(VoiceError, match="no voice 'clara'"):
        tiny_tts.say("Hello.", "clara")


@pytest.mark.parametrize("text", ["", "   ", "...", "你好", "Привет мир"])
def test_bad_text_is_refused_before_any_compute(no_compute: TTS, text: str) -> None:
    for speak in (no_compute.say, no_compute.stream):
        with pytest.raises(TextError):
            speak(text)


def test_bad_settings_are_refused_before_any_compute(no_compute: TTS, make_voice: Callable[..., Voice]) -> None:
    for speak in (no_compute.say, no_compute.stream):
        with pytest.raises(ConfigError, match="speed"):
            speak("Hello.", speed=5.0)
        with pytest.raises(ConfigError, match="seed"):
            speak("Hello.", seed=-1)
        with pytest.raises(ConfigError, match="attention chunk"):
            speak("Hello.", streaming=StreamingConfig(hop=10))
        with pytest.raises(ConfigError, match="instructions"):
            speak("Hello.", instruct="Whisper.")
        with pytest.raises(VoiceError, match="made for the model 'other'"):
            speak("Hello.", make_voice("joe", model="other"))


def test_bad_references_are_refused_before_any_compute(
    no_compute: TTS, write_wav: Callable[..., Path], make_speech: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(AudioError, match="does not exist"):
        no_compute.clone(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="silent"):
        no_compute.clone(write_wav(np.zeros(48000)))
    good = write_wav(make_speech(3.0))
    with pytest.raises(VoiceError, match="more than can be said"):
        no_compute.clone(good, "so many words " * 20)
    with pytest.raises(VoiceError, match="too little"):
        no_compute.clone(good, "no")
    with pytest.raises(TextError):
        no_compute.clone(good, "你好")
    with pytest.raises(VoiceError, match="cannot be the name"):
        no_compute.clone(good, name="../joe")


@pytest.mark.parametrize(("rate", "subtype", "channels"), [(44100, "PCM_U8", 2), (192000, "PCM_24", 1)])
def test_unusual_files_are_cloned(
    tiny_tts: TTS,
    write_wav: Callable[..., Path],
    make_speech: Callable[..., np.ndarray],
    rate: int,
    subtype: str,
    channels: int,
) -> None:
    samples = np.repeat(make_speech(1.5, rate)[:, None], channels, axis=1)
    voice = tiny_tts.clone(write_wav(samples, rate, subtype))
    assert len(voice.speech_token) == pytest.approx(37, abs=1)
