"""The checks on a folder of other dimensions, vocabularies, sampling settings, ratios and ids.

No second record of the released implementation is at hand. So a folder with another configuration is made here,
and what the checks compute for it is taken down as its record; read again, every row has to agree. This cannot
tell whether a number is right, but it finds every place that expects the dimensions of the usual folder, and every
setting that is not read from the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from cosyvoice.checkpoint.released import load_spk2info
from cosyvoice.config.released import read_model_config
from cosyvoice.flow.flow import CausalMaskedDiffWithDiT
from cosyvoice.hifigan.generator import CausalHiFTGenerator
from cosyvoice.llm.cosyvoice3_lm import CosyVoice3LM
from cosyvoice.parity import e2e, flow, hift, llm, native, report
from cosyvoice.parity.converted import Converted
from cosyvoice.parity.golden import ParityFolder, Row, assert_parity

USUAL = Path(__file__).parents[1] / "data" / "parity"
CHECKS: dict[ModuleType, tuple[str, ...]] = {
    llm: ("v3_llm", "v3_llm_train", "v3_bistream"),
    flow: ("v3_flow", "v3_flow_debug", "v3_flow_train"),
    hift: ("v3_hift",),
    e2e: ("v3_e2e",),
}
E2E_CASES = ("sft", "zero_shot_stream", "vc")
SPEAKER = 64
YAML = {
    "speech_token_size: 260": "speech_token_size: 300",
    "vocab_size: 260": "vocab_size: 300",
    "spk_embed_dim: 192": f"spk_embed_dim: {SPEAKER}",
    "llm_input_size: 32": "llm_input_size: 48",
    "llm_output_size: 32": "llm_output_size: 48",
    "length_normalized_loss: True": "length_normalized_loss: False",
    "lsm_weight: 0": "lsm_weight: 0.1",
    "mix_ratio: [5, 15]": "mix_ratio: [3, 8]",
    "top_p: 0.8": "top_p: 0.95",
    "top_k: 25": "top_k: 7",
    "win_size: 10": "win_size: 6",
    "tau_r: 0.1": "tau_r: 0.4",
    "pre_lookahead_len: 3": "pre_lookahead_len: 2",
    "channels: 48": "channels: 40",
    "inference_cfg_rate: 0.7": "inference_cfg_rate: 0.4",
    "dim: 32": "dim: 48",
    "depth: 2": "depth: 3",
    "heads: 2": "heads: 3",
    "base_channels: 24": "base_channels: 16",
    "conv_pre_look_right: 4": "conv_pre_look_right: 5",
    "cond_channels: 16": "cond_channels: 8",
}
QWEN = {
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "num_hidden_layers": 1,
    "intermediate_size": 40,
    "vocab_size": 820,
}


def write_model(directory: Path) -> int:
    """A model directory with other settings and random weights; the id of its end-of-prompt mark."""
    shutil.copytree(USUAL / "v3" / "model", directory)
    path = directory / "cosyvoice3.yaml"
    text = path.read_text()
    for usual, other in YAML.items():
        assert usual in text, usual
        text = text.replace(usual, other)
    path.write_text(text)
    qwen = directory / "CosyVoice-BlankEN"
    change_json(qwen / "config.json", lambda data: {**data, **QWEN})
    # One more entry in the vocabulary moves every id behind it.
    change_json(qwen / "vocab.json", lambda data: {**data, "unheard-of": len(data)})
    change_json(qwen / "tokenizer_config.json", move_added_tokens)

    config = read_model_config(directory)
    mark = config.end_of_prompt_id
    assert mark == read_model_config(USUAL / "v3" / "model").end_of_prompt_id + 1
    networks: dict[str, nn.Module] = {
        "llm": CosyVoice3LM(config.llm, mark),
        "flow": CausalMaskedDiffWithDiT(config.flow),
        "hift": CausalHiFTGenerator(config.hift),
    }
    for seed, (name, network) in enumerate(networks.items()):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(0.0, 0.15, generator=generator)
        torch.save(network.state_dict(), directory / f"{name}.pt")
    speakers = load_spk2info(directory / "spk2info.pt")
    cut = {
        name: {key: value[:, :SPEAKER] if "embedding" in key else value for key, value in entries.items()}
        for name, entries in speakers.items()
    }
    torch.save(cut, directory / "spk2info.pt")
    write_speaker_encoder(directory / "campplus.onnx")
    return mark


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def move_added_tokens(data: dict[str, Any]) -> dict[str, Any]:
    moved = {str(int(index) + 1): entry for index, entry in data["added_tokens_decoder"].items()}
    return {**data, "added_tokens_decoder": moved}


def write_speaker_encoder(path: Path) -> None:
    """The mean over time, projected: features [1, T, 80] -> [1, SPEAKER]."""
    onnx = pytest.importorskip("onnx")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(0).standard_normal((80, SPEAKER)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "weights"], ["frames"]),
            helper.make_node("ReduceMax", ["frames"], ["embedding"], axes=[1], keepdims=0),
        ],
        "encoder",
        [helper.make_tensor_value_info("features", real, [1, "time", 80])],
        [helper.make_tensor_value_info("embedding", real, [1, SPEAKER])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))


def write_inputs(golden: Path, topic: str, usual_mark: int, mark: int) -> None:
    """The usual record, with inputs that fit the other model; all else is replaced later."""
    tensors = load_file(USUAL / "golden" / f"{topic}.safetensors")
    meta = json.loads((USUAL / "golden" / f"{topic}.meta.json").read_text())
    for name, value in tensors.items():
        if name.rpartition(".")[2] in ("embedding", "llm_embedding", "flow_embedding"):
            tensors[name] = np.ascontiguousarray(value[:, :SPEAKER])
        elif "text" in name and value.dtype.kind == "i" and "len" not in name:
            tensors[name] = np.where(value == usual_mark, mark, value)
    if topic == "v3_llm_train":
        # Only rows with a target are compared, which the layout of the other mix ratio has elsewhere.
        tensors = {name: value for name, value in tensors.items() if not name.endswith(".logits")}
    options = meta["options"]
    if topic == "v3_bistream":
        for case in options.values():
            if isinstance(case, dict) and "sampler_plan" in case:
                case["sampler_plan"] = case["sampler_plan"] * 2
    if topic == "v3_e2e":
        for name in [name for name, case in options.items() if isinstance(case, dict) and "calls" in case]:
            if name not in E2E_CASES:
                del options[name]
                tensors = {key: value for key, value in tensors.items() if not key.startswith(f"{name}.")}
    save_file(tensors, golden / f"{topic}.safetensors")
    (golden / f"{topic}.meta.json").write_text(json.dumps(meta))


class Recorder:
    """Stands in for `compare` and `exact`: takes down what a check computed instead of judging it."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], Any] = {}

    def __call__(self, stage: str, name: str, ours: Any, *_: Any, **__: Any) -> Row:
        self.values[stage, name] = ours.detach().numpy() if hasattr(ours, "detach") else ours
        return Row(stage, name, 0.0, 0.0)

    def write(self, folder: ParityFolder, name: str) -> None:
        """Replace the record of a topic by what was taken down, tensors and description."""
        topic = folder.topic(name)
        tensors, options = topic.tensors, topic.meta["options"]
        for (stage, key), value in self.values.items():
            if stage != name or key.startswith("frontend_keys."):
                continue
            case, _, detail = key.rpartition(".")
            if key in tensors:
                tensors[key] = np.asarray(value, dtype=tensors[key].dtype, order="C")
            elif key in options:
                options[key] = plain(value)
            elif detail == "error":
                options[case]["error"] = "GenerationError" if value else None
            elif isinstance(options.get(case), dict) and detail in options[case]:
                options[case][detail] = plain(value)
        golden = folder.root / "golden"
        save_file(tensors, golden / f"{name}.safetensors")
        (golden / f"{name}.meta.json").write_text(json.dumps(topic.meta))


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda item: item.tolist()))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ParityFolder]:
    """The other folder, recorded by the checks themselves."""
    root = tmp_path_factory.mktemp("other")
    folder = ParityFolder(root)
    (root / "golden").mkdir()
    (root / "wav").symlink_to(USUAL / "wav", target_is_directory=True)
    usual_mark = read_model_config(USUAL / "v3" / "model").end_of_prompt_id
    mark = write_model(root / "v3" / "model")
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        for check, topics in CHECKS.items():
            for topic in topics:
                write_inputs(root / "golden", topic, usual_mark, mark)
            for module, judge in product((report, check), ("compare", "exact")):
                if hasattr(module, judge):
                    patch.setattr(module, judge, recorder)
            list(check.check(folder, "v3"))
    for topics in CHECKS.values():
        for topic in topics:
            recorder.write(folder, topic)
    yield folder


def test_the_settings_are_those_of_the_folder(other: ParityFolder) -> None:
    config = read_model_config(other.model_dir("v3"))
    assert config.llm.mix_ratio == (3, 8)
    assert config.llm.sampling.model_dump() == {"top_p": 0.95, "top_k": 7, "win_size": 6, "tau_r": 0.4}
    assert (config.llm.label_smoothing, config.llm.length_normalized_loss) == (0.1, False)
    assert config.llm.qwen.hidden_size == config.flow.dit.dim == 48
    assert config.flow.pre_lookahead_len == 2
    assert config.hift.conv_pre_look_right == 5
    assert config.flow.speaker_embedding_dim == SPEAKER


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.rpartition(".")[2])
def test_every_row_agrees_on_another_folder(other: ParityFolder, check: ModuleType) -> None:
    rows = list(check.check(other, "v3"))
    assert_parity(rows)
    assert {row.stage for row in rows} == set(CHECKS[check])


def test_the_native_engine_agrees_on_another_folder(other: ParityFolder, tmp_path: Path) -> None:
    converted = Converted(other, "v3", tmp_path)
    for name, check in native.CHECKS.items():
        rows = list(check(converted))
        assert_parity(rows)
        assert {row.stage for row in rows} >= {f"v3_{name}"}


def test_the_record_is_not_the_usual_one(other: ParityFolder) -> None:
    options = other.topic("v3_bistream").meta["options"]
    assert options["mix_ratio"] == [3, 8]
    assert options["eop_id"] == other.topic("v3_llm").meta["options"]["eop_id"] == 484
    first = next(case for case in options.values() if isinstance(case, dict) and "calls" in case)
    usual = json.loads((USUAL / "golden" / "v3_bistream.meta.json").read_text())["options"]
    assert first["calls"] not in [case["calls"] for case in usual.values() if isinstance(case, dict)]
    stream = other.topic("v3_e2e").meta["options"]["zero_shot_stream"]["calls"]
    # One token of look-ahead less than usual, and one frame of the vocoder more.
    assert stream[0]["n_token"] == 37
    assert next(call for call in stream if call["call"] == "hift")["n_wav"] == (70 - 9) * 480
