"""The Qwen2 body of a speech language model under the names and metadata that llama.cpp knows.

Other tools refuse a file with tensors that its architecture does not have, so only the body goes into one with these
names: embeddings of text in, hidden rows out. What makes it speak is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cosyvoice.checkpoint.gguf_file import Value
from cosyvoice.config.model import Qwen2Config
from cosyvoice.config.qwen_files import read_json_object
from cosyvoice.errors import ModelError

ARCHITECTURE = "qwen2"
BODY = "llm.model.model."
"""What the names of the body begin with in a speech language model."""
CONTEXT_LENGTH = 32768
"""Positions that the released text models were trained for; nothing in the weights depends on it."""
_ENDS = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""Kinds of tokens."""


def llama_names(names: Iterable[str]) -> dict[str, str]:
    """The llama.cpp name of each of `names` that belongs to the body; others are not in the table.

    Raises `ModelError` for a tensor of the body that a Qwen2 decoder does not have.
    """
    return {name: _llama_name(name) for name in names if name.startswith(BODY)}


def _llama_name(name: str) -> str:
    rest = name.removeprefix(BODY)
    if rest in _ENDS:
        return _ENDS[rest]
    pieces = rest.split(".", 2)
    if len(pieces) == 3 and pieces[0] == "layers" and pieces[1].isdigit():
        part, _, leaf = pieces[2].rpartition(".")
        if part in _PARTS and leaf in ("weight", "bias"):
            return f"blk.{pieces[1]}.{_PARTS[part]}.{leaf}"
    raise ModelError(f"{name!r} is no tensor of a Qwen2 decoder; the weights belong to another model")


def our_name(name: str) -> str | None:
    """The name in a speech language model of a tensor of the body; None for what does not belong to it."""
    ends = {theirs: ours for ours, theirs in _ENDS.items()}
    if name in ends:
        return BODY + ends[name]
    pieces = name.split(".")
    parts = {theirs: ours for ours, theirs in _PARTS.items()}
    if len(pieces) == 4 and pieces[0] == "blk" and pieces[1].isdigit() and pieces[2] in parts:
        return f"{BODY}layers.{pieces[1]}.{parts[pieces[2]]}.{pieces[3]}"
    return None


def qwen2_metadata(config: Qwen2Config) -> dict[str, Value]:
    """The geometry, under the keys of the architecture."""
    return {
        "qwen2.context_length": CONTEXT_LENGTH,
        "qwen2.embedding_length": config.hidden_size,
        "qwen2.block_count": config.num_layers,
        "qwen2.feed_forward_length": config.intermediate_size,
        "qwen2.attention.head_count": config.num_heads,
        "qwen2.attention.head_count_kv": config.num_kv_heads,
        "qwen2.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "qwen2.rope.freq_base": float(config.rope_theta),
        "qwen2.rope.dimension_count": config.hidden_size // config.num_heads,
        "qwen2.vocab_size": config.vocab_size,
    }


def tokenizer_metadata(directory: Path, size: int, added: Sequence[str] = ()) -> dict[str, Value]:
    """The tokenizer whose files lie in `directory`, filled up to the `size` rows of the embedding.

    `added` are tokens that take the ids behind those of the files, in their order, unless the files list them.

    Without a `vocab.json` there, the model is described as one without a tokenizer.

    Raises `ModelError` for files that cannot be read, or that list more tokens than there are rows.
    """
    if not (directory / "vocab.json").is_file():
        return {"tokenizer.ggml.model": "none"}
    tokens = {index: (text, _NORMAL) for text, index in read_json_object(directory / "vocab.json").items()}
    config = _optional_json(directory / "tokenizer_config.json")
    for text, index in _optional_json(directory / "added_tokens.json").items():
        tokens[index] = (text, _USER_DEFINED)
    for index, entry in config.get("added_tokens_decoder", {}).items():
        tokens[int(index)] = (entry["content"], _CONTROL if entry.get("special") else _USER_DEFINED)
    listed = {text for text, _ in tokens.values()}
    for text in added:
        if text not in listed:
            tokens[len(tokens)] = (text, _USER_DEFINED)
    if tokens and max(tokens) >= size:
        raise ModelError(f"{directory} lists the token {max(tokens)}, but the embedding has {size} rows; copy it again")
    # Rows without a token, which the embedding is filled up with.
    entries = [tokens.get(index, (f"[PAD{index}]", _UNUSED)) for index in range(size)]
    ids = {text: index for index, (text, _) in enumerate(entries)}
    metadata: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": ARCHITECTURE,
        "tokenizer.ggml.tokens": [text for text, _ in entries],
        "tokenizer.ggml.token_type": [kind for _, kind in entries],
        "tokenizer.ggml.merges": _merges(directory / "merges.txt"),
        "tokenizer.ggml.add_bos_token": False,
    }
    for key, name in (("eos_token_id", "eos_token"), ("padding_token_id", "pad_token")):
        token = config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if content in ids:
            metadata[f"tokenizer.ggml.{key}"] = ids[content]
    return metadata


def _merges(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); copy the complete model directory") from None
    return [line for line in lines if line and not line.startswith("#version")]


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}
