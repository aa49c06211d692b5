from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path

import pytest

from cosyvoice.errors import ModelError
from cosyvoice.text.whisper_tokenizer import (
    RANKS_FILE,
    WhisperTokenizer,
    pack_tokens,
    read_tokens,
    special_tokens,
)


@pytest.fixture(scope="module")
def tokenizer() -> WhisperTokenizer:
    return WhisperTokenizer()


def test_the_ranks_are_those_that_were_published() -> None:
    # The last token is empty; the published file writes it as padding alone.
    lines = [f"{base64.b64encode(token).decode() or '='} {rank}\n" for rank, token in enumerate(read_tokens())]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert digest in (RANKS_FILE.parent / "LICENSE.whisper").read_text()


def test_size_and_marks(tokenizer: WhisperTokenizer) -> None:
    assert tokenizer.vocab_size == 51866
    assert len(special_tokens()) == len(set(special_tokens())) == 1609
    known = {
        "<|endoftext|>": 50257, "<|startoftranscript|>": 50258, "<|en|>": 50259, "<|yue|>": 50358,
        "<|transcribe|>": 50360, "<|notimestamps|>": 50364, "<|0.00|>": 50365, "<|30.00|>": 51865,
    }  # fmt: skip
    assert {token: tokenizer.id_of(token) for token in known} == known
    assert tokenizer.encode("<|zh|>") == [50260]
    assert tokenizer.id_of("<|endofprompt|>") is None


@pytest.mark.parametrize("text", ["Hello, world!", "你好，世界。", "naïve  café\n", "안녕", "<|en|>Hi", "🙂", ""])
def test_round_trip(tokenizer: WhisperTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.decode(ids) == text.replace("<|en|>", "")


def test_it_is_made_quickly() -> None:
    start = time.perf_counter()
    WhisperTokenizer()
    assert time.perf_counter() - start < 1.0


def test_packing(tmp_path: Path) -> None:
    path = tmp_path / "ranks.xz"
    path.write_bytes(pack_tokens([b"a", b"", b"bc" * 100]))
    assert read_tokens(path) == [b"a", b"", b"bc" * 100]
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="cannot be read"):
        read_tokens(path)
