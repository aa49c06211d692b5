"""Records of a small model of each generation, in dimensions of its own: both engines pass on them, and a changed
weight does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from cosyvoice.config.released import read_model_config
from cosyvoice.errors import AudioError, ConfigError, ModelError, OutputError
from cosyvoice.export.formats import convert_model
from cosyvoice.parity.golden import ParityFolder, assert_parity
from cosyvoice.parity.record import record
from cosyvoice.parity.run import run
from cosyvoice.reference.loading import load_reference_model
from tests.parity.odd_models import write_odd_model

PARITY = Path(__file__).parents[1] / "data" / "parity"
GENERATIONS = ["v1", "v2", "v3"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("odd")
    return {generation: write_odd_model(generation, root / generation) for generation in GENERATIONS}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Path:
    out = tmp_path_factory.mktemp("record")
    for generation, model in models.items():
        prompt = PARITY / "wav" / "prompt_24k.wav" if generation == "v2" else None
        counts = record(model, out, prompt, "A short sentence." if prompt else "")
        topics = ["llm", "bistream", "flow", "hift", "e2e"] if generation != "v1" else ["llm", "flow", "hift", "e2e"]
        assert list(counts) == [f"{generation}_{topic}" for topic in topics]
        assert all(count >= 8 for count in counts.values())
    return out


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_engine_passes_on_the_record(recorded: Path, generation: str, backend: str) -> None:
    rows = run(ParityFolder(recorded), [generation], backend=backend)
    assert_parity(rows)
    names = {(row.stage, row.tensor) for row in rows}
    for stage, tensor in (
        ("llm", "zero_shot.logp"),
        ("flow", "offline_prompt.mel"),
        ("hift", "wav"),
        ("e2e", "zero_shot.out0"),
        ("e2e", "zero_shot_stream.out2"),
        ("e2e", "zero_shot_stream.calls"),
        ("e2e", "frontend_keys.zero_shot"),
    ):
        assert (f"{generation}_{stage}", tensor) in names


@pytest.mark.parametrize(
    ("network", "key", "stages"),
    [
        ("llm", "llm_decoder.weight", {"v3_llm", "v3_bistream"}),
        ("flow", "spk_embed_affine_layer.weight", {"v3_flow", "v3_e2e"}),
        ("hift", "conv_post.bias", {"v3_hift", "v3_e2e"}),
    ],
)
def test_a_changed_weight_fails(
    recorded: Path, models: dict[str, Path], tmp_path: Path, network: str, key: str, stages: set[str]
) -> None:
    shutil.copytree(models["v3"], tmp_path / "v3" / "model")
    path = tmp_path / "v3" / "model" / f"{network}.pt"
    weights = torch.load(path, weights_only=True)
    # Added to every output, a number would change no probability.
    weights[key] = weights[key] * 1.5
    torch.save(weights, path)
    (tmp_path / "golden").mkdir()
    for file in (recorded / "golden").glob("v3_*"):
        shutil.copy(file, tmp_path / "golden")
    shutil.copytree(recorded / "wav", tmp_path / "wav")
    failed = {row.stage for row in run(ParityFolder(tmp_path), ["v3"]) if not row.passed}
    assert failed == stages


def test_a_model_may_be_named_instead_of_linked(recorded: Path, models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "v3").mkdir()
    (tmp_path / "v3" / "model").write_text(f"{models['v3']}\n")
    assert ParityFolder(tmp_path).model_dir("v3") == models["v3"]
    assert ParityFolder(recorded).model_dir("v3").resolve() == models["v3"].resolve()


def test_the_dimensions_are_not_the_usual_ones(models: dict[str, Path]) -> None:
    for generation, model in models.items():
        config, usual = read_model_config(model), read_model_config(PARITY / generation / "model")
        assert config.mel.n_mels == config.flow.mel_dim == config.hift.in_channels == 64
        assert config.frames_per_token != usual.frames_per_token
        assert config.llm.speech_token_size != usual.llm.speech_token_size
        assert config.flow.lookahead != usual.flow.lookahead or generation == "v1"
        assert config.flow.attention_chunk != usual.flow.attention_chunk or generation == "v1"


def test_a_causal_u_net_of_several_levels_is_told(tmp_path: Path) -> None:
    """The reference runs it; in chunks it cannot be run."""
    model = write_odd_model("v2", tmp_path / "model", {"channels: [40]": [24, 40]})
    assert load_reference_model(model).config.flow.unet.channels == (24, 40)
    with pytest.raises(ConfigError, match=r"causal U-Net of 2 levels .* use backend='reference'"):
        convert_model(model, tmp_path / "bundle", measure=False)
    assert not (tmp_path / "bundle").exists()


def test_what_cannot_be_recorded(recorded: Path, tmp_path: Path) -> None:
    model = PARITY / "v3" / "model"
    before = sorted(recorded.rglob("*"))
    with pytest.raises(OutputError, match="records of v3 already"):
        record(model, recorded)
    with pytest.raises(ModelError, match="released layout"):
        record(tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match="transcript"):
        record(model, tmp_path / "out", PARITY / "wav" / "prompt_24k.wav")
    with pytest.raises(AudioError):
        record(model, tmp_path / "out", tmp_path / "none.wav", "Hello.")
    assert sorted(recorded.rglob("*")) == before
    assert not list((tmp_path / "out").iterdir())
