"""Byte-level BPE tokenizer of Qwen2, from `vocab.json` and `merges.txt`, with the tokens CosyVoice adds.

Added tokens are recognised wherever they stand in the text; everything else is NFC-normalised, cut by Qwen2's
pattern and merged. No sentence marks are added around the text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from cosyvoice.errors import ModelError
from cosyvoice.text.special_tokens import END_OF_PROMPT, added_tokens

# Contractions; a word with at most one leading sign; single digits; runs of signs; line ends; blanks.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class QwenTokenizer:
    """Text to token ids and back.

    Args:
        directory: holds `vocab.json`, `merges.txt` and, where there is one, `tokenizer_config.json`.
        generation: which tokens to add (`v2` or `v3`); those the files list already keep their ids.

    Raises:
        ModelError: a file is missing or damaged, or lists an added token with an id that leaves a gap.
    """

    def __init__(self, directory: Path, generation: Literal["v2", "v3"] = "v3") -> None:
        self._tokenizer = _build(Path(directory), generation)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids, without the added tokens unless `skip_special_tokens` is False."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def id_of(self, token: str) -> int | None:
        """Id of one token, None where the vocabulary has no such token."""
        return self._tokenizer.token_to_id(token)

    @property
    def end_of_prompt_id(self) -> int:
        """Id of `<|endofprompt|>`, which every V3 prompt contains."""
        return self._tokenizer.encode(END_OF_PROMPT, add_special_tokens=False).ids[0]

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the added ones included; the embedding table may have more rows."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)


def _build(directory: Path, generation: Literal["v2", "v3"]) -> Tokenizer:
    for name in ("vocab.json", "merges.txt"):
        if not (directory / name).is_file():
            raise ModelError(f"{directory / name} is missing; copy the complete model directory")
    try:
        model = BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{directory}: vocab.json and merges.txt do not fit together ({error})") from None
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    listed = _listed_tokens(directory / "tokenizer_config.json")
    tokenizer.add_special_tokens([_special(token) for _, token in listed])
    for index, token in listed:
        if tokenizer.token_to_id(token) != index:
            raise ModelError(
                f"{directory}: {token!r} should have id {index} but the vocabulary puts it at "
                f"{tokenizer.token_to_id(token)}; the tokenizer files do not belong together"
            )
    tokenizer.add_special_tokens([_special(token) for token in added_tokens(generation)])
    return tokenizer


def _special(token: str) -> AddedToken:
    return AddedToken(token, normalized=False, special=True)


def _listed_tokens(path: Path) -> list[tuple[int, str]]:
    """Added tokens of `tokenizer_config.json` in the order of their ids."""
    if not path.is_file():
        return []
    try:
        entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get("added_tokens_decoder", {})
        return sorted((int(index), str(entry["content"])) for index, entry in entries.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error!r}); download the model again") from None
