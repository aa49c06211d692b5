from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cosyvoice.errors import OutputError, VoiceError
from cosyvoice.voice.voice import Voice


def test_a_saved_voice_is_the_same_voice(tmp_path: Path, make_voice: Callable[..., Voice]) -> None:
    voice = make_voice("Zoë", transcript='Grüße, "quoted"\nand more.')
    loaded = Voice.load(voice.save(tmp_path / "v.safetensors"))
    for name in ("speech_token", "mel", "speaker_embedding"):
        ours, theirs = getattr(voice, name), getattr(loaded, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert (loaded.name, loaded.transcript, loaded.gender, loaded.model) == (
        voice.name, voice.transcript, "female", "tiny",
    )  # fmt: skip


def test_the_mel_is_half_precision_before_and_after(make_voice: Callable[..., Voice]) -> None:
    assert make_voice("a").mel.dtype == np.float16


def test_a_voice_cannot_be_changed(make_voice: Callable[..., Voice]) -> None:
    with pytest.raises(ValueError, match="read-only"):
        make_voice("a").mel[0, 0] = 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speech_token", np.zeros((2, 2), np.int32)),
        ("speech_token", np.zeros(3, np.float32)),
        ("mel", np.zeros(80, np.float32)),
        ("speaker_embedding", np.zeros((1, 192), np.float32)),
        ("speaker_embedding", np.full(192, np.nan, np.float32)),
        ("mel", np.full((4, 80), np.inf, np.float32)),
        ("prompt_text_token", np.zeros((1, 3), np.int32)),
        ("prompt_text_token", np.zeros(3, np.float32)),
    ],
)
def test_misshapen_parts_are_refused(field: str, value: np.ndarray) -> None:
    parts = {
        "speech_token": np.zeros(2, np.int32),
        "mel": np.zeros((4, 80), np.float32),
        "speaker_embedding": np.zeros(192, np.float32),
    }
    with pytest.raises(VoiceError, match="make"):
        Voice("a", **{**parts, field: value})


def test_missing_foreign_and_damaged_files_are_named(tmp_path: Path, make_voice: Callable[..., Voice]) -> None:
    with pytest.raises(VoiceError, match=r"gone\.safetensors does not exist"):
        Voice.load(tmp_path / "gone.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, foreign)
    with pytest.raises(VoiceError, match="not a voice"):
        Voice.load(foreign)
    whole = make_voice("a").to_bytes()
    for count in (0, 4, 200, len(whole) - 7):
        damaged = tmp_path / f"damaged{count}.safetensors"
        damaged.write_bytes(whole[:count])
        with pytest.raises(VoiceError, match="no intact voice file"):
            Voice.load(damaged)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(VoiceError):
        Voice.load(path)


def test_an_impossible_place_is_an_output_error(tmp_path: Path, make_voice: Callable[..., Voice]) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        make_voice("a").save(tmp_path / "none" / "v.safetensors")


def test_text_tokens_are_kept_and_files_without_them_stay_readable(
    tmp_path: Path, make_voice: Callable[..., Voice]
) -> None:
    plain = make_voice("a")
    assert len(Voice.load(plain.save(tmp_path / "a.safetensors")).prompt_text_token) == 0
    assert b"prompt_text_token" not in plain.to_bytes()
    held = replace(plain, prompt_text_token=np.array([5, 6, 7]))
    loaded = Voice.load(held.save(tmp_path / "b.safetensors"))
    assert loaded.prompt_text_token.dtype == np.int32 and loaded.prompt_text_token.tolist() == [5, 6, 7]
