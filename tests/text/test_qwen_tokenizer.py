from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cosyvoice.errors import ModelError
from cosyvoice.text.qwen_tokenizer import QwenTokenizer
from cosyvoice.text.special_tokens import PRONUNCIATION_TAGS, added_tokens

DIRECTORY = Path(__file__).parents[1] / "data" / "parity" / "v3" / "model" / "CosyVoice-BlankEN"


def test_added_tokens_have_the_released_ids() -> None:
    assert (len(added_tokens("v2")), len(added_tokens("v3")), len(PRONUNCIATION_TAGS)) == (20, 281, 260)
    # The released vocabulary has 151643 entries, so <|endofprompt|> is 151646 and the tags end at 151923.
    ids = {token: 151643 + index for index, token in enumerate(added_tokens("v3"))}
    assert (ids["<|endofprompt|>"], ids["[mn]"], ids["<|endofsystem|>"]) == (151646, 151662, 151663)
    assert (ids["[AA]"], ids["[AY]"], ids["[ián]"], ids["[zh]"], ids["[ǜ]"]) == (
        151664,
        151684,
        151774,
        151849,
        151923,
    )
    assert added_tokens("v3")[:20] == added_tokens("v2")


def test_marks_are_found_inside_text() -> None:
    tokenizer = QwenTokenizer(DIRECTORY)
    assert tokenizer.end_of_prompt_id == 483
    assert tokenizer.encode("a[HH]<|endofprompt|>") == [tokenizer.id_of("a"), tokenizer.id_of("[HH]"), 483]
    assert QwenTokenizer(DIRECTORY, "v2").id_of("[HH]") is None
    assert tokenizer.vocab_size == 480 + 281


@pytest.mark.parametrize("text", ["Hello, wörld 2024!\n", "你好 😀 déjà", "don't  stop\t\t"])
def test_decoding_restores_the_text(text: str) -> None:
    tokenizer = QwenTokenizer(DIRECTORY)
    assert tokenizer.decode(tokenizer.encode(text + "[breath]")) == text
    assert tokenizer.decode(tokenizer.encode(text + "[breath]"), skip_special_tokens=False) == text + "[breath]"


def test_agrees_with_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(DIRECTORY)
    reference.add_special_tokens({"additional_special_tokens": list(added_tokens("v3"))[1:]})
    tokenizer = QwenTokenizer(DIRECTORY)
    for text in (
        "It's 3.14 — naïve cafe\u0301.\r\n\n x  ",
        "[laughter]他说：“好的。”<strong>很</strong>[zh][ǒng]",
    ):
        assert tokenizer.encode(text) == reference([text])["input_ids"][0]


def test_bad_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"vocab\.json is missing"):
        QwenTokenizer(tmp_path)
    shutil.copytree(DIRECTORY, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {"600": {"content": "<|endoftext|>"}}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="should have id 600"):
        QwenTokenizer(tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ModelError, match="cannot be read"):
        QwenTokenizer(tmp_path / "model")
    (tmp_path / "model" / "merges.txt").write_text("#version\nzz qq\n")
    with pytest.raises(ModelError, match="do not fit together"):
        QwenTokenizer(tmp_path / "model")
