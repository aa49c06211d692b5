"""Reads a released model directory into a `ModelConfig`, without building any of the objects its YAML names.

The generation is that of the YAML file which is there: `cosyvoice.yaml`, `cosyvoice2.yaml` or `cosyvoice3.yaml`. Class
names that describe networks are translated; those that only concern data processing and training are passed over by an
explicit list; any other name is refused, since a class we do not know may change the function that the weights were
trained for.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from cosyvoice.config.limits import check_limits
from cosyvoice.config.model import ModelConfig
from cosyvoice.config.qwen_files import QWEN_DIRECTORY as QWEN_DIRECTORY
from cosyvoice.config.qwen_files import read_json_object
from cosyvoice.config.released_parts import ReleasedYaml
from cosyvoice.config.released_v1 import ReleasedV1
from cosyvoice.config.released_v2 import ReleasedV2
from cosyvoice.config.released_v3 import ReleasedV3
from cosyvoice.errors import ModelError

YAML_OF_GENERATION = {"v1": "cosyvoice.yaml", "v2": "cosyvoice2.yaml", "v3": "cosyvoice3.yaml"}

_READERS: dict[str, type[ReleasedYaml]] = {"v1": ReleasedV1, "v2": ReleasedV2, "v3": ReleasedV3}


def detect_generation(model_dir: Path) -> str | None:
    """`v1`, `v2` or `v3` by the YAML file that is there; None where there is none.

    Raises:
        ModelError: there is more than one; the weights fit one of them only.
    """
    found = [generation for generation, name in YAML_OF_GENERATION.items() if (model_dir / name).is_file()]
    if len(found) > 1:
        names = " and ".join(YAML_OF_GENERATION[generation] for generation in found)
        raise ModelError(f"{model_dir} holds {names}; keep only the one that the weights belong to")
    return found[0] if found else None


def read_model_config(model_dir: Path) -> ModelConfig:
    """Configuration of a released directory, or of one of our own (`config.json`) without a released YAML.

    Raises:
        ModelError: the directory or one of its files is missing, or it holds the YAML files of several generations.
        ConfigError: a file holds something that this version does not know.
    """
    model_dir = Path(model_dir)
    if not model_dir.is_dir():
        raise ModelError(f"model directory {model_dir} does not exist; check the path or download the model first")
    generation = detect_generation(model_dir)
    if generation is None:
        return _read_own_config(model_dir)
    path = model_dir / YAML_OF_GENERATION[generation]
    return check_limits(_READERS[generation](path).translate(), str(path))


def _read_own_config(model_dir: Path) -> ModelConfig:
    path = model_dir / "config.json"
    if not path.is_file():
        names = ", ".join(YAML_OF_GENERATION.values())
        raise ModelError(f"{model_dir} is no model directory: it holds none of config.json, {names}")
    return check_limits(cast(ModelConfig, ModelConfig.parse(read_json_object(path), str(path))), str(path))
