"""The native language models of the first two generations reproduce the record; that of the third is in test_native."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import save_file

from cosyvoice.checkpoint.released import load_state_dict
from cosyvoice.config.released import read_model_config
from cosyvoice.engine.models import CosyVoiceModel
from cosyvoice.engine.stages import Stages
from cosyvoice.export.graph import TensorFile
from cosyvoice.export.llm_graph import build_llm
from cosyvoice.native.llm import NativeLLMStage
from cosyvoice.native.runtime import Runtime
from cosyvoice.parity import native_llm
from cosyvoice.parity.converted import Converted
from cosyvoice.parity.golden import ParityFolder, assert_parity

FOLDER = ParityFolder(Path(__file__).parents[1] / "data" / "parity")
UNUSED = "llm.model.lm_head.weight"


def converted(generation: str, directory: Path, change: str = "") -> Converted:
    """A stand-in for a whole bundle, of which there is the language model only; one weight is changed if asked for."""
    source = FOLDER.model_dir(generation)
    config = read_model_config(source)
    weights = {name: tensor.float().numpy() for name, tensor in load_state_dict(source / "llm.pt").items()}
    if change:
        weights[change] = weights[change] * np.float32(1.01)
    save_file({name: tensor for name, tensor in weights.items() if name != UNUSED}, directory / "llm.safetensors")
    build_llm(TensorFile(directory / "llm.safetensors"), config.llm, directory)
    stage = NativeLLMStage(directory, config.llm, config.end_of_prompt_id, Runtime(1))
    absent = cast(Any, None)
    model = CosyVoiceModel(config, Stages(absent, stage, absent, absent, absent, absent))
    return cast(Converted, SimpleNamespace(folder=FOLDER, generation=generation, model=model))


@pytest.mark.parametrize(("generation", "topics"), [("v1", {"v1_llm"}), ("v2", {"v2_llm", "v2_bistream"})])
def test_every_recorded_tensor_is_reproduced(generation: str, topics: set[str], tmp_path: Path) -> None:
    rows = list(native_llm.check(converted(generation, tmp_path)))
    assert_parity(rows)
    assert {row.stage for row in rows} == topics | {"ras"}


@pytest.mark.parametrize(
    ("generation", "weight"),
    [
        ("v1", "llm.encoders.1.self_attn.linear_pos.weight"),
        ("v1", "text_encoder.encoders.0.self_attn.pos_bias_u"),
        ("v1", "spk_embed_affine_layer.weight"),
        ("v2", "llm_embedding.weight"),
    ],
)
def test_a_changed_weight_is_noticed(generation: str, weight: str, tmp_path: Path) -> None:
    rows = native_llm.check(converted(generation, tmp_path, weight))
    failed = {row.tensor for row in rows if not row.passed}
    assert "zero_shot.logp" in failed or "zero_shot.lm_input" in failed
