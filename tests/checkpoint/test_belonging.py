from __future__ import annotations

from pathlib import Path

import pytest

from cosyvoice.checkpoint.belonging import Mismatch, compare, explain, fold_names, recognise
from cosyvoice.checkpoint.pt_header import read_pt_header

MODELS = Path(__file__).parents[1] / "data" / "parity"
NETWORKS = ("llm", "flow", "hift")


def shapes(generation: str, network: str) -> dict[str, tuple[int, ...]]:
    header = read_pt_header(MODELS / generation / "model" / f"{network}.pt")
    return {name: tensor.shape for name, tensor in header.items()}


@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
@pytest.mark.parametrize("network", NETWORKS)
def test_weights_tell_what_they_are(generation: str, network: str) -> None:
    found = shapes(generation, network)
    assert recognise(found) == (network, generation)
    assert recognise(fold_names(found)) == (network, generation)
    assert recognise({"weight": (1,)}) is None


def test_differences_are_listed() -> None:
    expected = {"a": (1,), "b": (2, 3), "c": (4,)}
    assert compare(expected, {"a": (1,), "b": (3, 2), "d": (1,)}) == Mismatch(("c",), ("d",), ("b",))
    assert not compare(expected, {**expected, "llm.model.lm_head.weight": (9, 9)})


def test_folded_weight_norms_fit() -> None:
    expected = shapes("v3", "hift")
    assert not compare(expected, fold_names(expected))
    assert compare(fold_names(expected), expected)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("mine", "theirs"), [("v1", "v2"), ("v2", "v3"), ("v3", "v1")])
def test_weights_of_another_generation_are_explained(network: str, mine: str, theirs: str) -> None:
    path = Path("model") / f"{network}.pt"
    message = explain(path, shapes(mine, network), shapes(theirs, network), mine)
    assert message is not None and message.startswith(str(path))
    assert f"looks like the {network} of generation {theirs}" in message and f"is of {mine}" in message
    assert explain(path, shapes(mine, network), shapes(mine, network), mine) is None


def test_other_misfits_are_explained() -> None:
    flow, llm = shapes("v3", "flow"), shapes("v3", "llm")
    assert "looks like the llm of this generation" in str(explain(Path("flow.pt"), flow, llm, "v3"))
    name = "decoder.estimator.proj_out.weight"
    message = str(explain(Path("flow.pt"), flow, {**flow, name: (80, 99)}, "v3"))
    assert f"holds '{name}' in the shape (80, 99) instead of (80, 32)" in message and "0 missing" in message
    assert "holds the unknown 'extra'" in str(explain(Path("flow.pt"), flow, {**flow, "extra": (1,)}, "v3"))
    without = {key: value for key, value in flow.items() if key != name}
    assert f"lacks '{name}' (1 missing" in str(explain(Path("flow.pt"), flow, without, "v3"))
