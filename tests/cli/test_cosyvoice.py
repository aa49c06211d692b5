"""The skin for programs written for the released package, on all three generations in miniature."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cosyvoice.checkpoint.download import Downloaded, DownloadLock
from cosyvoice.cli import cosyvoice as released
from cosyvoice.cli.cosyvoice import AutoModel, CosyVoice, CosyVoice2, CosyVoice3
from cosyvoice.errors import AudioError, ConfigError, ModelError, TextError, VoiceError
from cosyvoice.export.bundle import convert
from cosyvoice.utils.common import instruct_list, set_all_random_seed
from cosyvoice.utils.file_utils import load_wav, speed_change

PARITY = Path(__file__).parents[1] / "data" / "parity"
WAV = str(PARITY / "wav" / "prompt_24k.wav")
TEXT = "Hello there."
SAID = "The sun was warm."
CLASSES = {"v1": CosyVoice, "v2": CosyVoice2, "v3": CosyVoice3}
RATES = {"v1": 22050, "v2": 24000, "v3": 24000}
BUILT_IN = "中文女"

Outputs = Iterator[dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def models() -> dict[str, CosyVoice]:
    return {generation: AutoModel(str(PARITY / generation / "model")) for generation in CLASSES}


@pytest.fixture(scope="module")
def instructed(tmp_path_factory: pytest.TempPathFactory) -> CosyVoice:
    """The first generation in a directory whose name says that it follows instructions."""
    directory = tmp_path_factory.mktemp("models") / "CosyVoice-300M-Instruct"
    shutil.copytree(PARITY / "v1" / "model", directory)
    return CosyVoice(directory)


@pytest.fixture(scope="module")
def prompt() -> torch.Tensor:
    return load_wav(WAV, 16000)


def joined(outputs: Outputs) -> torch.Tensor:
    """All samples, the form of every part checked."""
    parts = [output["tts_speech"] for output in outputs]
    assert parts and all(part.dtype == torch.float32 and part.ndim == 2 and part.shape[0] == 1 for part in parts)
    speech = torch.cat(parts, dim=1)
    assert torch.isfinite(speech).all() and float(speech.abs().max()) > 0
    return speech


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("generation", list(CLASSES))
def test_every_mode_speaks(models: dict[str, CosyVoice], prompt: torch.Tensor, generation: str, stream: bool) -> None:
    model = models[generation]
    assert type(model) is CLASSES[generation] and model.sample_rate == RATES[generation]
    set_all_random_seed(1)
    assert joined(model.inference_sft(TEXT, BUILT_IN, stream=stream)).shape[1] > 1000
    assert joined(model.inference_zero_shot(TEXT, SAID, WAV, stream=stream)).shape[1] > 1000
    assert joined(model.inference_cross_lingual(TEXT, prompt, stream=stream)).shape[1] > 1000
    assert joined(model.inference_vc(WAV, prompt, stream=stream)).shape[1] > 1000
    if isinstance(model, CosyVoice2):
        assert (
            joined(model.inference_instruct2(TEXT, "Speak slowly.<|endofprompt|>", WAV, stream=stream)).shape[1] > 1000
        )


@pytest.mark.parametrize("stream", [False, True])
def test_instructions_of_the_first_generation(instructed: CosyVoice, stream: bool) -> None:
    assert instructed.frontend.instruct
    assert joined(instructed.inference_instruct(TEXT, BUILT_IN, "A calm narrator.", stream=stream)).shape[1] > 1000
    with pytest.raises(ConfigError, match="not across languages"):
        instructed.inference_cross_lingual(TEXT, WAV)


def test_the_same_seed_of_the_process_gives_the_same_speech(models: dict[str, CosyVoice]) -> None:
    model = models["v3"]
    speech = []
    for seed in (5, 5, 6):
        set_all_random_seed(seed)
        speech.append([joined(model.inference_zero_shot(TEXT, SAID, WAV)) for _ in range(2)])
    assert all(torch.equal(one, other) for one, other in zip(speech[0], speech[1], strict=True))
    assert any(
        one.shape != other.shape or not torch.equal(one, other) for one, other in zip(speech[0], speech[2], strict=True)
    )


def test_a_path_an_open_file_and_a_tensor_are_prompts(models: dict[str, CosyVoice]) -> None:
    """A tensor is at 16 kHz, so it is the same voice as a file of that rate."""
    model = models["v3"]
    source = str(PARITY / "wav" / "source_16k.wav")
    at_16k = load_wav(source, 16000)
    speech = []
    with open(source, "rb") as file:
        for given in (source, Path(source), file, at_16k, at_16k[0]):
            set_all_random_seed(3)
            speech.append(joined(model.inference_cross_lingual(TEXT, given)))
    set_all_random_seed(3)
    speech.append(joined(model.inference_cross_lingual(TEXT, prompt_speech_16k=at_16k)))
    assert all(torch.equal(speech[0], other) for other in speech[1:])
    with pytest.raises(AudioError, match=r"\[2, 16000\]"):
        model.inference_cross_lingual(TEXT, torch.zeros(2, 16000))


def test_text_that_arrives(models: dict[str, CosyVoice]) -> None:
    """Of the second generation: random weights of the third choose special ids, which end arriving text."""
    model = models["v2"]

    def words() -> Iterator[str]:
        yield "Hello "
        yield "there, "
        yield "friend."

    for stream in (True, False):
        set_all_random_seed(1)
        assert joined(model.inference_zero_shot(words(), SAID, WAV, stream=stream)).shape[1] > 1000


def test_speed_and_text_as_it_stands(models: dict[str, CosyVoice], prompt: torch.Tensor) -> None:
    model = models["v2"]
    lengths = []
    for speed in (1.0, 1.5):
        set_all_random_seed(2)
        lengths.append(joined(model.inference_vc(WAV, prompt, speed=speed)).shape[1])
    assert lengths[1] == pytest.approx(lengths[0] / 1.5, rel=0.05)
    seen: list[str] = []
    text, encode = model.tts.model.stages.text, model.tts.model.stages.text.encode

    def noted(text: str) -> list[int]:
        seen.append(text)
        return encode(text)

    text.encode = noted  # type: ignore[method-assign]
    try:
        joined(model.inference_sft("It is 3 o'clock.", BUILT_IN, text_frontend=False))
        joined(model.inference_sft("It is 3 o'clock.", BUILT_IN))
    finally:
        text.encode = encode  # type: ignore[method-assign]
    assert seen[0] == "It is 3 o'clock." and "three" in seen[-1]


@pytest.mark.parametrize("generation", list(CLASSES))
def test_speakers_are_added_saved_and_read_again(tmp_path: Path, generation: str) -> None:
    directory = tmp_path / "model"
    shutil.copytree(PARITY / generation / "model", directory)
    model = AutoModel(directory)
    before = model.list_available_spks()
    assert BUILT_IN in before and model.list_avaliable_spks() == before
    assert model.add_zero_shot_spk(SAID, WAV, "my voice/1") is True
    assert model.list_available_spks() == [*before, "my voice/1"]
    set_all_random_seed(4)
    added = joined(model.inference_zero_shot(TEXT, "", "", zero_shot_spk_id="my voice/1"))
    model.save_spkinfo()
    again = AutoModel(directory)
    assert again.list_available_spks() == sorted([*before, "my voice/1"])
    set_all_random_seed(4)
    assert torch.equal(joined(again.inference_zero_shot(TEXT, "", "", zero_shot_spk_id="my voice/1")), added)
    set_all_random_seed(4)
    assert torch.equal(joined(model.inference_zero_shot(TEXT, SAID, WAV)), added)
    # What is loaded by the released implementation: a table of tensors.
    table = torch.load(directory / "spk2info.pt", weights_only=True)
    assert set(table) == set(again.list_available_spks())
    assert table["my voice/1"]["flow_embedding"].shape == (1, 192)
    assert set(table[BUILT_IN]) == {"embedding"}


def test_programs_change_the_table_of_speakers(models: dict[str, CosyVoice], tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(PARITY / "v3" / "model", directory)
    model = AutoModel(directory)
    table = model.frontend.spk2info
    assert BUILT_IN in table and list(table.keys()) == model.list_available_spks()
    entries = table[BUILT_IN]
    table["copy"] = entries
    assert torch.equal(table["copy"]["embedding"], entries["embedding"])
    joined(model.inference_sft(TEXT, "copy"))
    del model.frontend.spk2info["copy"]
    with pytest.raises(VoiceError, match="no speaker 'copy'"):
        model.inference_sft(TEXT, "copy")
    with pytest.raises(KeyError):
        table["copy"]
    model.frontend.spk2info = {"only": entries}
    assert model.list_available_spks() == ["only"]
    with pytest.raises(VoiceError):
        model.frontend.spk2info = {"bad": {"embedding": torch.zeros(1, 7)}}
    assert model.list_available_spks() == ["only"]
    model.save_spkinfo()
    assert AutoModel(directory).list_available_spks() == ["only"]


def test_a_bundle_is_a_model_directory(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    convert(PARITY / "v3" / "model", bundle, measure=False)
    model = AutoModel(str(bundle))
    assert isinstance(model, CosyVoice3)
    model.add_zero_shot_spk(SAID, WAV, "mine")
    model.save_spkinfo()
    again = AutoModel(str(bundle))
    assert "mine" in again.list_available_spks()
    assert joined(again.inference_zero_shot(TEXT, "", "", zero_shot_spk_id="mine")).shape[1] > 1000


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda models: CosyVoice2(PARITY / "v3" / "model"), ModelError, "generation v3.*use AutoModel"),
        (lambda models: CosyVoice(PARITY / "v1"), ModelError, "no model directory"),
        (lambda models: AutoModel(PARITY / "nothing"), ModelError, "cosyvoice download"),
        (lambda models: models["v2"].inference_zero_shot(TEXT, SAID), ConfigError, "prompt_wav is missing"),
        (lambda models: models["v2"].inference_vc(WAV), ConfigError, "prompt_wav is missing"),
        (lambda models: models["v2"].inference_sft(TEXT, "nobody"), VoiceError, "no speaker 'nobody'"),
        (
            lambda models: models["v2"].inference_zero_shot(TEXT, "", "", zero_shot_spk_id="nobody"),
            VoiceError,
            "there are: .*中文女",
        ),
        (lambda models: models["v2"].inference_instruct(TEXT, BUILT_IN, "x"), ConfigError, "inference_instruct2"),
        (lambda models: models["v1"].inference_instruct(TEXT, BUILT_IN, "x"), ConfigError, "CosyVoice-300M-Instruct"),
        (lambda models: models["v2"].inference_zero_shot(TEXT, SAID, "no.wav"), AudioError, "no.wav"),
        (lambda models: models["v2"].add_zero_shot_spk(SAID, WAV, ""), ConfigError, "zero_shot_spk_id is empty"),
    ],
)
def test_bad_input_is_told_at_the_call(
    models: dict[str, CosyVoice], call: Callable[[dict[str, CosyVoice]], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(models)


def test_accelerators_are_passed_over_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        CosyVoice3(str(PARITY / "v3" / "model"), load_trt=True, load_vllm=True, fp16=True)
    assert "load_trt, load_vllm" in caplog.text and "cosyvoice convert" in caplog.text


def test_a_prompt_text_with_the_instruction_of_the_third_generation(models: dict[str, CosyVoice]) -> None:
    """What stands before the mark is not said in the recording, so it makes no transcript too long for it."""
    assert len(instruct_list) > 20 and all(line.endswith("<|endofprompt|>") for line in instruct_list)
    assert instruct_list[0].startswith("You are a helpful assistant. ")
    said = f"{instruct_list[0]} {SAID}"
    model = models["v3"]
    count = model.tts.model.stages.text.count_phones
    assert count(said) == count(SAID)
    set_all_random_seed(1)
    assert joined(model.inference_zero_shot(TEXT, said, WAV)).shape[1] > 1000


def test_a_program_in_the_style_of_the_released_servers(models: dict[str, CosyVoice]) -> None:
    """Recordings arrive as 16-bit samples, speech goes out so."""

    def as_bytes(outputs: Outputs) -> bytes:
        return b"".join((out["tts_speech"].numpy() * 2**15).astype(np.int16).tobytes() for out in outputs)

    received = (load_wav(WAV, 16000)[0].numpy() * 2**15).astype(np.int16).tobytes()
    recording = torch.from_numpy(np.array(np.frombuffer(received, dtype=np.int16))).unsqueeze(dim=0)
    recording = recording.float() / 2**15
    # As the page of the release does with what was uploaded.
    recording = torch.concat([recording / recording.abs().max() * 0.8, torch.zeros(1, 3200)], dim=1)
    for model in models.values():
        speakers = model.list_available_spks()
        requests = [
            model.inference_sft(TEXT, BUILT_IN),
            model.inference_zero_shot(TEXT, SAID, recording, stream=False),
            model.inference_cross_lingual(TEXT, recording, stream=False, speed=1.0),
        ]
        assert BUILT_IN in speakers
        assert all(len(as_bytes(outputs)) > 2000 for outputs in requests)


def test_a_repository_of_a_released_model_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(name: str, source: str) -> Downloaded:
        asked.append((name, source))
        return Downloaded(PARITY / "v2" / "model", DownloadLock.model_construct(), ())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(released, "download", download)
    assert AutoModel(model_dir="iic/CosyVoice2-0.5B").model_dir == str(PARITY / "v2" / "model")
    assert CosyVoice2("FunAudioLLM/CosyVoice2-0.5B").sample_rate == 24000
    assert asked == [("iic/CosyVoice2-0.5B", "modelscope"), ("FunAudioLLM/CosyVoice2-0.5B", "huggingface")]
    # What might be a path that is not there is never taken for a repository.
    with pytest.raises(ModelError, match="cosyvoice download"):
        AutoModel("pretrained_models/CosyVoice2-0.5B")
    assert len(asked) == 2


def test_text_as_the_frontend_prepares_it(models: dict[str, CosyVoice]) -> None:
    frontend = models["v2"].frontend
    assert frontend.text_normalize("It is 3 o'clock.", split=False) == "It is three o'clock."
    pieces = frontend.text_normalize("It is 3 o'clock. " * 30, split=True)
    assert len(pieces) > 1 and all("three" in piece for piece in pieces)
    assert frontend.text_normalize("It is 3.", split=True, text_frontend=False) == ["It is 3."]
    assert frontend.text_normalize("", split=False) == "" and frontend.text_normalize("") == [""]
    words = iter(["It ", "is."])
    assert frontend.text_normalize(words)[0] is words
    with pytest.raises(TextError):
        frontend.text_normalize("  ")


def test_speed_of_samples() -> None:
    wave = torch.sin(torch.arange(16000) / 10).expand(2, -1)
    faster, rate = speed_change(wave, 16000, "1.25")
    assert faster.shape == (2, 12800) and faster.dtype == torch.float32 and rate == 16000
