"""Which network and generation weights belong to, by their names and shapes, and what does not fit a configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Shapes = Mapping[str, tuple[int, ...]]
"""Names of tensors to their shapes."""

UNUSED = frozenset({"llm.model.lm_head.weight"})
"""The output head of the text model that a decoder was made from: tied to its embedding and never used, so a file may
hold it or not."""
_G, _V = ".parametrizations.weight.original0", ".parametrizations.weight.original1"
# A network is known by a tensor that it alone has.
_SIGNS = (
    ("llm", "v1", "text_encoder_affine_layer.weight"),
    ("llm", "v2", "llm_embedding.weight"),
    ("llm", "v3", "speech_embedding.weight"),
    ("flow", "v1", "length_regulator.model.0.weight"),
    ("flow", "v2", "encoder.up_layer.conv.weight"),
    ("flow", "v3", "pre_lookahead_layer.conv1.weight"),
)
_F0, _STAGE = "f0_predictor.condnet.0.weight", "ups.2.weight"
_CAUSAL_F0_KERNEL = 4


@dataclass(frozen=True)
class Mismatch:
    """How weights differ from what a configuration asks for."""

    missing: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    """Names of tensors that are there in another shape."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.foreign or self.misshapen)


def recognise(shapes: Shapes) -> tuple[str, str] | None:
    """Network (`llm`, `flow`, `hift`) and generation of released weights; None for any others."""
    for network, generation, sign in _SIGNS:
        if sign in shapes:
            return network, generation
    folded = fold_names(shapes)
    if _F0 not in folded:
        return None
    if folded[_F0][-1:] == (_CAUSAL_F0_KERNEL,):
        return "hift", "v3"
    return "hift", "v2" if _STAGE in folded else "v1"


def fold_names(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Weight norm folded into the weight it stands for: magnitude and direction become one tensor."""
    return {name.replace(_V, ".weight"): tuple(shape) for name, shape in shapes.items() if not name.endswith(_G)}


def whole_names(shapes: Shapes, expected: Shapes) -> dict[str, tuple[int, ...]]:
    """Quantised matrices of a bundle under the names and shapes of what they stand for.

    `NAME.q` and `NAME.scales` become `NAME`. Blocks do not tell how much of the last one is filled, so as many inputs
    as `expected` asks for are believed where the blocks hold them.
    """
    whole: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        matrix = name.removesuffix(".q").removesuffix(".scales")
        q, scales = shapes.get(f"{matrix}.q"), shapes.get(f"{matrix}.scales")
        if matrix == name or q is None or scales is None:
            whole[name] = tuple(shape)
        elif len(q) == 2:
            whole[matrix] = (q[1], q[0])
        else:
            asked = tuple(expected.get(matrix, ()))
            most = math.prod(q[1:]) * 2
            fits = len(asked) == 2 and q[1] == scales[1] and most // 4 <= asked[1] <= most
            whole[matrix] = (q[0], asked[1] if fits else most)
    return whole


def _folded_like(found: Shapes, expected: Shapes) -> Shapes:
    """`expected` with the weight norm folded in all layers of which `found` holds the folded weight."""
    fitted: dict[str, tuple[int, ...]] = {}
    for name, shape in expected.items():
        weight = name.replace(_G, ".weight").replace(_V, ".weight")
        if weight not in found:
            fitted[name] = shape
        elif not name.endswith(_G):
            fitted[weight] = shape
    return fitted


def compare(expected: Shapes, found: Shapes) -> Mismatch:
    """What differs between the tensors of a file and those of a configuration, in the order of the names.

    Weights whose norms are folded fit layers that keep them apart, and quantised matrices those that they stand for.
    """
    expected = {name: tuple(shape) for name, shape in _folded_like(found, expected).items() if name not in UNUSED}
    found = {name: shape for name, shape in whole_names(found, expected).items() if name not in UNUSED}
    return Mismatch(
        missing=tuple(sorted(expected.keys() - found.keys())),
        foreign=tuple(sorted(found.keys() - expected.keys())),
        misshapen=tuple(sorted(n for n in expected.keys() & found.keys() if expected[n] != found[n])),
    )


def explain(path: Path, expected: Shapes, found: Shapes, generation: str) -> str | None:
    """Why the weights of `path` are not those of the configuration beside it, and what to do; None where they are.

    Args:
        path: of the weights.
        expected: what the configuration asks for.
        found: what the file holds.
        generation: of the configuration, as "v3".
    """
    mismatch = compare(expected, found)
    if not mismatch:
        return None
    if mismatch.missing:
        problem = f"lacks {mismatch.missing[0]!r}"
    elif mismatch.foreign:
        problem = f"holds the unknown {mismatch.foreign[0]!r}"
    else:
        name = mismatch.misshapen[0]
        wanted = expected[name] if name in expected else fold_names(expected)[name]
        problem = f"holds {name!r} in the shape {tuple(found[name])} instead of {tuple(wanted)}"
    counts = f"{len(mismatch.missing)} missing, {len(mismatch.foreign)} unknown, {len(mismatch.misshapen)} misshapen"
    looks = recognise(found)
    if looks is not None and looks[1] != generation:
        cure = (
            f"it looks like the {looks[0]} of generation {looks[1]}, the configuration beside it is of {generation}; "
            f"use the file that came with this configuration, or the configuration of {looks[1]}"
        )
    elif looks is not None and looks[0] not in path.name:
        cure = f"it looks like the {looks[0]} of this generation; give every file the name it came with"
    else:
        cure = "it does not belong to the configuration beside it, so copy the complete model directory"
    return f"{path} {problem} ({counts}); {cure}"
