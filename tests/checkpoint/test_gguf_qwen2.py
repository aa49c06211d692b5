from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch

from cosyvoice.checkpoint.gguf_qwen2 import BODY, llama_names, our_name, qwen2_metadata, tokenizer_metadata
from cosyvoice.config.model import Qwen2Config
from cosyvoice.errors import ModelError
from cosyvoice.text.qwen_tokenizer import QwenTokenizer
from cosyvoice.text.special_tokens import added_tokens

MODEL = Path(__file__).parents[1] / "data" / "parity" / "v3" / "model"
QWEN = MODEL / "CosyVoice-BlankEN"


def test_names_are_those_of_the_gguf_package() -> None:
    names = torch.load(MODEL / "llm.pt", weights_only=True).keys()
    table = llama_names(names)
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 2)
    assert len(table) == 2 * 12 + 2
    for ours, theirs in table.items():
        stem, _, leaf = ours.removeprefix("llm.model.").rpartition(".")
        assert theirs == f"{known.get_name(stem)}.{leaf}"
        assert our_name(theirs) == ours
    assert our_name("output.weight") is None and our_name("blk.x.attn_q.weight") is None
    with pytest.raises(ModelError, match="no tensor of a Qwen2 decoder"):
        llama_names([f"{BODY}layers.0.self_attn.rotary.weight"])


def test_geometry() -> None:
    metadata = qwen2_metadata(Qwen2Config())
    assert metadata["qwen2.rope.dimension_count"] == 64 and metadata["qwen2.block_count"] == 24
    assert all(key.startswith("qwen2.") for key in metadata)


def test_tokens_have_the_ids_of_the_tokenizer() -> None:
    metadata = tokenizer_metadata(QWEN, 800, added_tokens("v3"))
    tokens, kinds, merges = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "merges"))
    assert isinstance(tokens, list) and isinstance(kinds, list) and isinstance(merges, list)
    tokenizer = QwenTokenizer(QWEN)
    assert len(tokens) == len(kinds) == 800
    for index in (0, 17, 480, tokenizer.end_of_prompt_id, tokenizer.vocab_size - 1):
        assert tokenizer.id_of(str(tokens[index])) == index
    assert kinds[0] == 1 and kinds[480] == 3 and kinds[tokenizer.end_of_prompt_id] == 4
    assert tokens[-1] == "[PAD799]" and kinds[-1] == 5
    assert merges[0] == "Ġ t" and metadata["tokenizer.ggml.eos_token_id"] == 480


def test_directories_without_and_with_bad_tokenizers(tmp_path: Path) -> None:
    assert tokenizer_metadata(tmp_path, 9) == {"tokenizer.ggml.model": "none"}
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 9}))
    with pytest.raises(ModelError, match="lists the token 9, but the embedding has 9 rows"):
        tokenizer_metadata(tmp_path, 9)
    with pytest.raises(ModelError, match=r"merges\.txt cannot be read"):
        tokenizer_metadata(tmp_path, 10)
