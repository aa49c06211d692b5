"""What the Qwen2 files of a released directory say: the geometry of the decoder and the id of `<|endofprompt|>`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cosyvoice.errors import ModelError

QWEN_DIRECTORY = "CosyVoice-BlankEN"
END_OF_PROMPT = "<|endofprompt|>"
_MAX_BYTES = 64 << 20


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `ModelError` where it is missing, damaged or no object."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError(
                f"{path} has more than {_MAX_BYTES} bytes, which no file of a model has; download it again"
            )
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; copy the complete model directory") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); download the model again") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds no JSON object; download the model again")
    return data


def read_qwen_geometry(directory: Path) -> dict[str, Any]:
    """Fields of `Qwen2Config` from a Hugging Face `config.json`.

    Raises:
        ModelError: the file is missing, incomplete, or describes another architecture than Qwen2.
    """
    path = directory / "config.json"
    data = read_json_object(path)
    for key, expected in (("model_type", "qwen2"), ("hidden_act", "silu")):
        if data.get(key, expected) != expected:
            raise ModelError(f"{path}: {key} is {data[key]!r}, only {expected!r} is supported")
    for key in ("rope_scaling", "use_sliding_window"):
        if data.get(key):
            raise ModelError(f"{path}: {key} is set, which the decoder does not support; remove it")
    required = {
        "hidden_size": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "intermediate_size": "intermediate_size",
        "vocab_size": "vocab_size",
    }
    missing = [key for key in required.values() if key not in data]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}; download the model again")
    optional = {"rms_norm_eps": "rms_norm_eps", "rope_theta": "rope_theta"}
    geometry = {ours: data[theirs] for ours, theirs in required.items()}
    geometry |= {ours: data[theirs] for ours, theirs in optional.items() if theirs in data}
    geometry["num_kv_heads"] = data.get("num_key_value_heads", geometry["num_heads"])
    return geometry


def find_end_of_prompt_id(directory: Path) -> int | None:
    """Id of `<|endofprompt|>` in the tokenizer files of `directory`; None where there are no such files.

    Where the files do not list the mark, it is the first of the tokens that the released implementation adds,
    so it takes the first id behind the vocabulary and the tokens the files do list.
    """
    vocab_path, config_path = directory / "vocab.json", directory / "tokenizer_config.json"
    if not vocab_path.is_file():
        return None
    tokens: dict[str, int] = dict(read_json_object(vocab_path))
    if config_path.is_file():
        try:
            for index, entry in read_json_object(config_path).get("added_tokens_decoder", {}).items():
                tokens[entry["content"]] = int(index)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"{config_path} cannot be read ({error!r}); download the model again") from None
    if (directory / "added_tokens.json").is_file():
        tokens |= read_json_object(directory / "added_tokens.json")
    return tokens.get(END_OF_PROMPT, len(tokens))
