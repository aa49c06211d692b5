"""Parity of text normalisation, splitting and tokenisation with the recorded rows.

What normalisation returns depends on the version of wetext. A record holds the result of the version that the
released implementation pins and, where they differ, those of later versions; the version installed here
decides which applies. Everything runs with the losses of the released implementation (`compat="released"`).

We read better on purpose in one case: wetext 0.1 escapes quotation marks with a backslash. We take the
backslash away, so those rows equal the record of the pinned version instead.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Any

from cosyvoice.config.released import read_model_config
from cosyvoice.engine.frontends import load_tokenizer
from cosyvoice.errors import TextError
from cosyvoice.parity.golden import ParityFolder, Row, exact
from cosyvoice.text import normalise as helpers
from cosyvoice.text.frontend import TextFrontend
from cosyvoice.text.normalise import Normaliser
from cosyvoice.text.split import Language, split_paragraph

_PINNED = "0.0.4"
_VERSION_MARK = "_wetext_"
_ESCAPED_QUOTE = '\\"'
# The record does not name the options of its `*_comma_small` rows; every row agrees with these.
_SMALL_ZH: dict[str, Any] = {"token_max_n": 20, "token_min_n": 10, "merge_len": 5, "comma_split": True}
_SMALL_EN: dict[str, Any] = {"token_max_n": 30, "token_min_n": 15, "merge_len": 8, "comma_split": True}


class RememberingNormaliser(Normaliser):
    """Reads every text once for all topics and generations: the transducers take most of the time of this check."""

    def __init__(self) -> None:
        super().__init__(compat="released")
        self._readings: dict[tuple[str, Language], str] = {}

    def read(self, text: str, language: Language) -> str:
        key = (text, language)
        if key not in self._readings:
            self._readings[key] = super().read(text, language)
        return self._readings[key]


def check(folder: ParityFolder, generation: str = "v3") -> Iterator[Row]:
    """One row for every recorded result of `GENERATION_text`, `text_helpers` and `wetext_versions`."""
    normaliser = RememberingNormaliser()
    yield from check_frontend(folder, generation, normaliser)
    yield from check_helpers(folder)
    yield from check_reader(folder, normaliser)


def applicable_version(recorded: list[str], installed: str) -> str:
    """The newest of the `recorded` versions not newer than `installed`; the oldest where all are newer."""

    def key(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())

    ordered = sorted(recorded, key=key)
    return next((v for v in reversed(ordered) if key(v) <= key(installed)), ordered[0])


def _installed_record(folder: ParityFolder) -> str:
    later = list(folder.json("wetext_versions")["rows_differing_from_0.0.4"])
    return applicable_version([_PINNED, *later], importlib.metadata.version("wetext"))


def _attempt(function: Callable[[str], Any], text: str) -> Any:
    """The result, or the record of the error that the released implementation raises for blank text."""
    try:
        return function(text)
    except TextError:
        return {"error": "IndexError"}


def _versioned(stage: str, name: str, ours: Any, recorded: Any, pinned: Any, version: str) -> Row:
    if _ESCAPED_QUOTE in str(recorded if isinstance(recorded, str) else "".join(recorded)) and ours == pinned:
        return exact(stage, name, ours, pinned, "quotation marks not escaped, on purpose")
    return exact(stage, name, ours, recorded, f"wetext {version}")


def check_frontend(folder: ParityFolder, generation: str, normaliser: Normaliser) -> Iterator[Row]:
    """Ids of the raw text, and pieces and ids after normalisation, with and without wetext."""
    stage = f"{generation}_text"
    config = read_model_config(folder.model_dir(generation))
    tokenizer = load_tokenizer(config, folder.model_dir(generation))
    version = _installed_record(folder)
    frontends = {
        "wetext": TextFrontend(tokenizer.encode, normaliser, "released"),
        "none": TextFrontend(tokenizer.encode, Normaliser("none", "released"), "released"),
    }
    for index, row in enumerate(folder.json(stage)["rows"]):
        text = row["text"]
        ours: dict[str, Any] = {"tokens_raw": tokenizer.encode(text)}
        for name, frontend in frontends.items():
            ours[f"split_{name}"] = _attempt(frontend.split, text)
            ours[f"nosplit_{name}"] = _attempt(frontend.normalise, text)
        for key, recorded in row.items():
            where = f"{index}.{key}"
            base, _, of_version = key.partition(_VERSION_MARK)
            if key == "text":
                continue
            if of_version:
                # The record of another version than the installed one says nothing about us.
                if of_version == version:
                    ours_here = ours[f"{base}_wetext"]
                    yield _versioned(stage, where, ours_here, recorded, row[f"{base}_wetext"], version)
            elif key.startswith("tokens_") and key != "tokens_raw":
                # Ids belong to the recorded pieces, so that they test the tokenizer whatever the version.
                pieces = row["split_" + key.removeprefix("tokens_")]
                yield exact(stage, where, [tokenizer.encode(piece) for piece in pieces], recorded)
            elif f"{key}_{version}" not in row:
                yield exact(stage, where, ours.get(key, "nothing reproduces this"), recorded)


def check_helpers(folder: ParityFolder) -> Iterator[Row]:
    """The small functions, on every recorded text."""
    functions: dict[str, Callable[[str], Any]] = {
        "contains_chinese": helpers.contains_chinese,
        "spell_out_number": helpers.spell_out_number,
        "is_only_punctuation": helpers.is_only_punctuation,
        "replace_blank": helpers.replace_blank,
        "remove_bracket": helpers.remove_bracket,
        "replace_corner_mark": helpers.replace_corner_mark,
        "split_zh": lambda text: _split(text, "zh"),
        "split_zh_comma_small": lambda text: _split(text, "zh", **_SMALL_ZH),
        "split_en_chars": lambda text: _split(text, "en"),
        "split_en_chars_comma_small": lambda text: _split(text, "en", **_SMALL_EN),
    }
    for index, row in enumerate(folder.json("text_helpers")["rows"]):
        for key, recorded in row.items():
            if key != "text":
                ours = functions[key](row["text"]) if key in functions else "nothing reproduces this"
                yield exact("text_helpers", f"{index}.{key}", ours, recorded)


def _split(text: str, language: Language, **options: Any) -> Any:
    return _attempt(lambda given: split_paragraph(given, list, language, keep_marks=False, **options), text)


def check_reader(folder: ParityFolder, normaliser: Normaliser) -> Iterator[Row]:
    """What wetext itself returns, before anything is tidied."""
    version = _installed_record(folder)
    for index, row in enumerate(folder.json("wetext_versions")["rows"]):
        recorded = row.get(version, row[_PINNED])
        ours = [
            normaliser.read(row["text"].strip(), "zh") or None,
            normaliser.read(row["text"].strip(), "en") or None,
        ]
        readable = [item or "" for item in recorded]
        if _ESCAPED_QUOTE in "".join(readable) and ours == row[_PINNED]:
            yield exact("wetext_versions", str(index), ours, row[_PINNED], "quotation marks not escaped, on purpose")
        else:
            yield exact("wetext_versions", str(index), ours, recorded, f"wetext {version}")
