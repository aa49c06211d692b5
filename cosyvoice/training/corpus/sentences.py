"""Sentences for the corpus: freely licensed text that Debian packages carry, and generated everyday sentences.

Every sentence belongs to one split, chosen by a hash of its words, so that no sentence is ever in two splits and the
split does not depend on how many sentences are drawn.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cosyvoice.errors import MissingDependencyError

FORTUNES = Path("/usr/share/games/fortunes")
"""Debian's `fortunes` and `fortunes-min`."""
BIBLE = "bible"
"""The command of Debian's `bible-kjv` (with `bible-kjv-text`, the King James version, in the public domain)."""
SPLITS = ("train", "validation", "test")
HELD_OUT_SHARE = {"validation": 0.02, "test": 0.03}
MIN_WORDS, MAX_WORDS = 3, 14
SKIPPED_FORTUNES = {"ascii-art", "perl", "linuxcookie", "knghtbrd", "songs-poems"}

WORDS = Path(__file__).with_name("words.txt")
TEMPLATES = Path(__file__).with_name("templates.txt")


class SentenceMaker:
    """Everyday sentences from templates: commands, questions, names, numbers, dates, prices, lists."""

    def __init__(self) -> None:
        self.words: dict[str, list[str]] = {}
        section: list[str] = []
        for line in WORDS.read_text().splitlines():
            if line.startswith("["):
                section = self.words.setdefault(line.strip("[]"), [])
            elif not line.startswith("#"):
                section += [word.replace("_", " ") for word in line.split()]
        lines = TEMPLATES.read_text().splitlines()
        self.templates = [line for line in lines if line and not line.startswith("#")]

    def sentence(self, rng: np.random.Generator) -> str:
        """One sentence. Every field is drawn whether the template has it or not, so a template can be changed
        without changing what the others say."""

        def pick(kind: str) -> str:
            words = self.words[kind]
            return words[int(rng.integers(len(words)))]

        fields = {
            "verb": pick("verbs"),
            "verbs": plural(pick("verbs")),
            "verb2": pick("verbs"),
            "adj": pick("adjectives"),
            "adj2": pick("adjectives"),
            "thing": pick("things"),
            "thing2": pick("things"),
            "things": plural(pick("things")),
            "things2": plural(pick("things")),
            "person": pick("people"),
            "people": plural(pick("people")),
            "name": pick("names"),
            "name2": pick("names"),
            "city": pick("places"),
            "time": pick("times"),
            "adv": pick("adverbs"),
            "place": pick("placements"),
            "n": str(int(rng.choice([rng.integers(2, 20), rng.integers(20, 100), rng.integers(100, 3000)]))),
            "n2": str(int(rng.integers(10, 99))),
            "hour": pick("hours"),
            "half": pick("minutes"),
            "month": pick("months"),
            "day": str(int(rng.integers(1, 29))),
            "year": str(int(rng.integers(1900, 2030))),
            "digits": " ".join(str(d) for d in rng.integers(0, 10, int(rng.integers(4, 8)))),
        }
        template = self.templates[int(rng.integers(len(self.templates)))]
        sentence = template.format(**fields)
        return sentence[0].upper() + sentence[1:]


def plural(noun: str) -> str:
    """English plural of a regular noun."""
    irregular = {
        "man": "men",
        "woman": "women",
        "child": "children",
        "mouse": "mice",
        "fish": "fish",
        "sheep": "sheep",
    }
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "ch", "sh", "x")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def sentence_key(sentence: str) -> str:
    """What makes two sentences the same: their letters and digits in lower case."""
    return re.sub(r"[^a-z0-9]+", " ", sentence.lower()).strip()


def split_of(sentence: str) -> str:
    """The split a sentence belongs to, from a hash of its letters."""
    position = int.from_bytes(hashlib.blake2b(sentence_key(sentence).encode(), digest_size=6).digest(), "big") / 2**48
    if position < HELD_OUT_SHARE["validation"]:
        return "validation"
    if position < HELD_OUT_SHARE["validation"] + HELD_OUT_SHARE["test"]:
        return "test"
    return "train"


def usable(sentence: str) -> bool:
    """Whether a sentence is plain English of a speakable length."""
    words = sentence.split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS or len(sentence) > 90:
        return False
    if not re.fullmatch(r"[A-Za-z0-9 ,.?!;:'$-]+", sentence) or re.search(
        r"[A-Z]{3,}|\d{5,}|[.]\w|--|\w{16,}", sentence
    ):
        return False
    return sum(w[0].isalpha() for w in words) >= 0.7 * len(words)


def _pieces(text: str) -> Iterator[str]:
    for sentence in re.split(r"(?<=[.?!])\s+", " ".join(text.split())):
        sentence = sentence.strip(" \"'()-")
        if sentence and sentence[-1].isalnum():
            sentence += "."
        if sentence and sentence[0].isalpha() and usable(sentence):
            yield sentence


def fortunes() -> list[str]:
    """Sentences of Debian's fortune files, in a fixed order, without repetitions."""
    if not FORTUNES.is_dir():
        raise MissingDependencyError("the corpus needs Debian's text: apt-get install fortunes fortunes-min")
    found: dict[str, None] = {}
    for path in sorted(FORTUNES.iterdir()):
        if path.suffix or path.name in SKIPPED_FORTUNES or not path.is_file():
            continue
        for entry in path.read_text(errors="ignore").split("\n%\n"):
            body = re.split(r"\n\s*-- ", entry)[0]
            found.update(dict.fromkeys(_pieces(body)))
    return list(found)


def bible() -> list[str]:
    """Sentences of the King James Bible that are short enough."""
    try:
        text = subprocess.run([BIBLE, "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingDependencyError("the corpus needs Debian's text: apt-get install bible-kjv") from error
    found: dict[str, None] = {}
    for line in text.splitlines():
        verse = re.sub(r"^\S+\s", "", line)
        for clause in re.split(r"(?<=[;:])\s+", verse):
            found.update(dict.fromkeys(_pieces(clause.rstrip(" ;:,"))))
    return list(found)


def sentence_pool(
    seed: int, size: int, shares: tuple[float, float, float], excluded: Iterable[str] = ()
) -> dict[str, list[str]]:
    """Draw `size` sentences; `shares` are those of fortunes, Bible and generated text. Gives a list a split.

    Sentences with the words of one of `excluded` (those that the model will be judged by) are left out.
    """
    barred = {sentence_key(sentence) for sentence in excluded}
    rng = np.random.default_rng([seed, 1])
    sources = [fortunes(), bible()]
    generated: dict[str, None] = {}
    maker = SentenceMaker()
    while len(generated) < size * shares[2]:
        sentence = maker.sentence(rng)
        if usable(sentence):
            generated[sentence] = None
    chosen = list(generated)
    for source, share in zip(sources, shares, strict=False):
        order = rng.permutation(len(source))[: int(size * share)]
        chosen += [source[i] for i in order]
    chosen = [chosen[i] for i in rng.permutation(len(chosen))]
    pool: dict[str, list[str]] = {split: [] for split in SPLITS}
    for sentence in chosen:
        if sentence_key(sentence) not in barred:
            pool[split_of(sentence)].append(sentence)
    return pool
