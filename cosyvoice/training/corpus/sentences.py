"""Sentences for the corpus: freely licensed text that Debian packages carry, and generated everyday sentences.

Every sentence belongs to one split, chosen by a hash of its words, so that no sentence is ever in two splits and the
split does not depend on how many sentences are drawn.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
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

NAMES = (
    "Anna Ben Carla David Emma Frank Grace Henry Irene Jack Karen Leo Maria Nathan Olivia Peter Quentin Rachel Simon "
    "Teresa Ursula Victor Wendy Xavier Yvonne Zachary Alice Thomas Laura Michael Susan Robert Linda George Helen "
    "Edward Julia Martin Sophie Walter Nora Oscar Paula Hugo Clara Arthur Mrs. Baker Mr. Turner Dr. Stone"
).replace("Mrs. ", "Mrs._").replace("Mr. ", "Mr._").replace("Dr. ", "Dr._").split()
PLACES = (
    "London Paris Berlin Boston Chicago Denver Dublin Madrid Rome Vienna Oslo Tokyo Sydney Toronto Lisbon Prague "
    "Athens Cairo Delhi Seattle Houston Miami Dallas Geneva Munich Warsaw Budapest Glasgow Bristol Oxford"
).split()
THINGS = (
    "letter book table chair window door garden kitchen bottle jacket camera ticket blanket basket mirror candle hammer "
    "ladder bicycle suitcase umbrella sandwich carrot potato lemon orange apple coffee tea milk bread cheese butter "
    "pencil paper picture piano guitar telephone computer keyboard engine wheel bridge river mountain valley forest "
    "island beach village castle church market school library hospital station airport office bank museum theater "
    "horse dog cat bird fish rabbit lion tiger mouse sheep cow chicken flower tree grass stone cloud storm shadow "
    "watch ring coin purse shirt shoe glove scarf pocket button thread needle brush towel soap pillow lamp clock radio"
).split()
ADJECTIVES = (
    "green red blue yellow black white small large heavy light old new young quiet loud bright dark cold warm hot soft "
    "hard clean dirty empty full cheap expensive beautiful strange simple difficult famous friendly gentle happy sad "
    "hungry lazy lucky narrow wide proud quick slow rough smooth sharp strong weak sweet sour thick thin wooden broken"
).split()
VERBS = (
    "bring take find sell buy clean paint open close carry move watch follow forget remember need want like see leave "
    "keep fix borrow return show hide measure describe collect choose wash drop push pull hold throw"
).split()
PEOPLE = (
    "teacher doctor farmer driver singer painter baker lawyer neighbor brother sister mother father uncle aunt cousin "
    "child woman man boy girl friend student captain soldier king queen judge clerk nurse visitor stranger"
).split()
ADVERBS = "slowly quickly quietly carefully often never always sometimes rarely suddenly happily sadly finally".split()
TIMES = (
    "today|tomorrow|yesterday|this morning|this evening|last night|next week|every day|before seven|after lunch|"
    "at noon|at midnight|on Monday|on Tuesday|on Wednesday|on Thursday|on Friday|on Saturday|on Sunday|in the spring|"
    "in the summer|in the autumn|in the winter|in January|in February|in March|in April|in June|in August|"
    "in September|in October|in November|in December|a long time ago|in a few minutes|for three hours"
).split("|")
PREPOSITIONS = "near behind under above beside across from|in front of|next to|on top of|close to|far from"
PLACEMENTS = [p for chunk in PREPOSITIONS.split("|") for p in ([chunk] if " " in chunk else [chunk])]
TEMPLATES = (
    "Please {verb} the {adj} {thing} {time}.",
    "The {adj} {thing} is {place} the {thing2}.",
    "{name} will {verb} the {thing} {time}.",
    "Did the {person} {verb} the {adj} {thing}?",
    "Where did {name} leave the {thing}?",
    "I would like to {verb} a {adj} {thing}, please.",
    "We went to {city} {time}.",
    "The {person} walked {adv} to the {thing}.",
    "Can you {verb} the {thing} and the {thing2}?",
    "{name} and {name2} live in {city}.",
    "There are {n} {things} in the {thing2}.",
    "The train to {city} leaves at {hour} {half}.",
    "My {person} has {n} {adj} {things}.",
    "It costs {n} dollars and {n2} cents.",
    "The meeting is on {month} {day}, {year}.",
    "Call me at {digits}.",
    "Why is the {thing} so {adj}?",
    "{name} said that the {person} was {adj}.",
    "No, I do not {verb} {adj} {things}.",
    "How many {things} does {name} {verb}?",
    "Turn left at the {thing}, then go to the {thing2}.",
    "What a {adj} {thing}!",
    "If you {verb} the {thing}, {name} will {verb2} it.",
    "She {adv} {verbs} her {adj} {thing}.",
    "They never {verb} the {things} {place} the {thing2}.",
    "The weather in {city} was {adj} {time}.",
    "{thing} {thing2} {adj} {person} {city}.",
    "{adj} {things}, {adj2} {things2}, and {n} {people}.",
    "About {n} percent of the {people} {verb} {things}.",
    "This {thing} is too {adj} for a {person}.",
    "Good morning, {name}. How is your {person}?",
    "Thank you for the {adj} {thing}.",
)
MONTHS = (
    "January February March April May June July August September October November December"
).split()


def plural(noun: str) -> str:
    """English plural of a regular noun."""
    irregular = {"man": "men", "woman": "women", "child": "children", "mouse": "mice", "fish": "fish", "sheep": "sheep"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "ch", "sh", "x")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def generated_sentence(rng: np.random.Generator) -> str:
    """One everyday sentence from the templates."""

    def pick(words: list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    fields = {
        "verb": pick(VERBS),
        "verbs": plural(pick(VERBS)),
        "verb2": pick(VERBS),
        "adj": pick(ADJECTIVES),
        "adj2": pick(ADJECTIVES),
        "thing": pick(THINGS),
        "thing2": pick(THINGS),
        "things": plural(pick(THINGS)),
        "things2": plural(pick(THINGS)),
        "person": pick(PEOPLE),
        "people": plural(pick(PEOPLE)),
        "name": pick(NAMES).replace("_", " "),
        "name2": pick(NAMES).replace("_", " "),
        "city": pick(PLACES),
        "time": pick(TIMES),
        "adv": pick(ADVERBS),
        "place": pick(PLACEMENTS),
        "n": str(int(rng.choice([rng.integers(2, 20), rng.integers(20, 100), rng.integers(100, 3000)]))),
        "n2": str(int(rng.integers(10, 99))),
        "hour": pick("one two three four five six seven eight nine ten eleven twelve".split()),
        "half": pick(["fifteen", "thirty", "forty five", "o'clock", "in the morning", "at night"]),
        "month": pick(MONTHS),
        "day": str(int(rng.integers(1, 29))),
        "year": str(int(rng.integers(1900, 2030))),
        "digits": " ".join(str(d) for d in rng.integers(0, 10, int(rng.integers(4, 8)))),
    }
    sentence = pick(list(TEMPLATES)).format(**fields)
    return sentence[0].upper() + sentence[1:]


def split_of(sentence: str) -> str:
    """The split a sentence belongs to, from a hash of its letters."""
    key = re.sub(r"[^a-z0-9]+", " ", sentence.lower()).strip().encode()
    position = int.from_bytes(hashlib.blake2b(key, digest_size=6).digest(), "big") / 2**48
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
    if not re.fullmatch(r"[A-Za-z0-9 ,.?!;:'$-]+", sentence) or re.search(r"[A-Z]{3,}|\d{5,}|[.]\w|--|\w{16,}", sentence):
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


def sentence_pool(seed: int, size: int, shares: tuple[float, float, float]) -> dict[str, list[str]]:
    """Draw `size` sentences; `shares` are those of fortunes, Bible and generated text. Returns a list for each split."""
    rng = np.random.default_rng([seed, 1])
    sources = [fortunes(), bible()]
    generated: dict[str, None] = {}
    while len(generated) < size * shares[2]:
        sentence = generated_sentence(rng)
        if usable(sentence):
            generated[sentence] = None
    chosen = list(generated)
    for source, share in zip(sources, shares, strict=False):
        order = rng.permutation(len(source))[: int(size * share)]
        chosen += [source[i] for i in order]
    chosen = [chosen[i] for i in rng.permutation(len(chosen))]
    pool: dict[str, list[str]] = {split: [] for split in SPLITS}
    for sentence in chosen:
        pool[split_of(sentence)].append(sentence)
    return pool
