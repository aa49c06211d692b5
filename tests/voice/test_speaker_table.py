from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosyvoice.checkpoint.released import load_spk2info
from cosyvoice.config.released import read_model_config
from cosyvoice.errors import VoiceError
from cosyvoice.voice.speaker_table import speakers_of_voices, voices_of_speakers
from cosyvoice.voice.voice import Voice

MODELS = Path(__file__).parents[1] / "data" / "parity"
Table = dict[str, dict[str, np.ndarray]]


def read(generation: str) -> Table:
    speakers = load_spk2info(MODELS / generation / "model" / "spk2info.pt")
    return {name: {key: item.numpy() for key, item in entries.items()} for name, entries in speakers.items()}


@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
def test_every_speaker_is_a_voice(generation: str, tmp_path: Path) -> None:
    config, table = read_model_config(MODELS / generation / "model"), read(generation)
    voices = voices_of_speakers(table, config)
    assert [voice.name for voice in voices] == list(table)
    for voice in voices:
        entries = table[voice.name]
        assert voice.model == config.name and voice.transcript == ""
        loaded = Voice.load(voice.save(tmp_path / "voice.safetensors"))
        np.testing.assert_array_equal(loaded.prompt_text_token, voice.prompt_text_token)
        if "embedding" in entries:
            np.testing.assert_array_equal(voice.speaker_embedding, entries["embedding"][0])
            assert voice.mel.shape == (0, config.mel.n_mels) and len(voice.speech_token) == 0
        else:
            np.testing.assert_array_equal(voice.prompt_text_token, entries["prompt_text"][0])
            np.testing.assert_array_equal(voice.speech_token, entries["flow_prompt_speech_token"][0])
            np.testing.assert_allclose(voice.mel, entries["prompt_speech_feat"][0], atol=5e-3)


@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
def test_voices_become_the_table_they_came_from(generation: str) -> None:
    table = read(generation)
    again = speakers_of_voices(voices_of_speakers(table, read_model_config(MODELS / generation / "model")))
    assert again.keys() == table.keys()
    for name, entries in table.items():
        assert again[name].keys() == entries.keys()
        for key, value in entries.items():
            assert again[name][key].dtype == value.dtype and again[name][key].shape == value.shape
            # The mel of a voice is half precision.
            np.testing.assert_allclose(again[name][key], value, atol=5e-3 if key == "prompt_speech_feat" else 0)


def test_lengths_cut_padded_entries() -> None:
    table = read("v2")
    saved = table["my_zero_shot_spk"]
    saved["prompt_text"] = np.pad(saved["prompt_text"], ((0, 0), (0, 3)))
    voice = voices_of_speakers(table, read_model_config(MODELS / "v2" / "model"))[1]
    assert len(voice.prompt_text_token) == saved["prompt_text_len"][0] == saved["prompt_text"].shape[1] - 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow_prompt_speech_token": None}, "lacks 'flow_prompt_speech_token'"),
        ({"prompt_speech_feat": np.zeros(80, np.float32)}, "it must be"),
        ({"flow_embedding": np.zeros((2, 192), np.float32)}, "it must be"),
        ({"llm_embedding": np.zeros((1, 192), np.float32)}, "that differ"),
        ({"prompt_text_len": np.array([99], np.int32)}, "does not fit"),
        ({"prompt_text_len": np.array([-1], np.int32)}, "does not fit"),
    ],
)
def test_misshapen_speakers_are_refused(changes: dict[str, np.ndarray | None], message: str) -> None:
    entries = {**read("v2")["my_zero_shot_spk"], **changes}
    table = {"spk": {key: value for key, value in entries.items() if value is not None}}
    with pytest.raises(VoiceError, match=message):
        voices_of_speakers(table, read_model_config(MODELS / "v2" / "model"))


def test_a_speaker_without_anything_is_refused() -> None:
    with pytest.raises(VoiceError, match="lacks 'embedding'"):
        voices_of_speakers({"spk": {}}, read_model_config(MODELS / "v1" / "model"))


def test_what_a_table_cannot_hold_is_refused() -> None:
    voice = Voice("a", np.zeros(2, np.int32), np.zeros((4, 80), np.float32), np.ones(3, np.float32), transcript="Hi.")
    with pytest.raises(VoiceError, match="must be token ids"):
        speakers_of_voices([voice])
    with pytest.raises(VoiceError, match="two speakers 'b'"):
        speakers_of_voices([Voice("b", voice.speech_token[:0], voice.mel[:0], voice.speaker_embedding)] * 2)
