"""English text as plain words and marks: typography, abbreviations, signs, Roman numerals, accents.

This is the small model's own normalisation; it leaves numbers to `english_numbers` and never changes what a
reader would say. Text in a script other than Latin is refused, since no rule here could pronounce it.
"""

from __future__ import annotations

import re
import unicodedata

from cosyvoice.errors import TextError

_TYPOGRAPHY = str.maketrans(
    {
        "‘": "'", "’": "'", "‛": "'", "ʼ": "'", "`": "'", "´": "'",
        "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
        "‐": "-", "‑": "-", "‒": "-", "−": "-", "–": " - ", "—": " - ", "―": " - ",
        "…": "... ", "¿": " ", "¡": " ", "·": " ", "•": " ", "|": " ", "*": " ", "_": " ", "~": " ",
        "，": ", ", "。": ". ", "！": "! ", "？": "? ", "；": "; ", "：": ": ",
        "\u00ad": "", "\u200b": "", "\u200d": "", "\ufeff": "", "⁄": "/", "™": "", "®": "", "©": "",
        "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L",
        "đ": "d", "Đ": "D", "ð": "th", "Ð": "Th", "þ": "th", "Þ": "Th", "ı": "i", "µ": "micro",
    }
)  # fmt: skip
_SIGNS = {
    "&": "and",
    "@": "at",
    "%": "percent",
    "+": "plus",
    "=": "equals",
    "°": "degrees",
    "#": "number",
    "€": "euros",
    "£": "pounds",
}

# Read in full wherever they stand; the point is no end of a sentence.
_TITLES = {
    "mr": "mister", "mrs": "missus", "ms": "miz", "messrs": "messers", "prof": "professor", "gen": "general",
    "sen": "senator", "rep": "representative", "gov": "governor", "capt": "captain", "lt": "lieutenant",
    "col": "colonel", "sgt": "sergeant", "rev": "reverend", "hon": "honorable", "pres": "president",
}  # fmt: skip
_COURTESY = frozenset(["mr", "mrs", "ms", "messrs"])
_ABBREVIATIONS = {
    "vs": "versus", "etc": "et cetera", "approx": "approximately", "dept": "department", "est": "established",
    "inc": "incorporated", "ltd": "limited", "corp": "corporation", "co": "company", "jr": "junior",
    "sr": "senior", "ave": "avenue", "blvd": "boulevard", "rd": "road", "mt": "mount", "ft": "fort",
    "govt": "government", "min": "minutes", "max": "maximum", "fig": "figure", "vol": "volume",
    "pp": "pages", "ed": "edition", "tel": "telephone", "temp": "temperature",
    "jan": "january", "feb": "february", "apr": "april", "aug": "august", "sept": "september",
    "sep": "september", "oct": "october", "nov": "november", "dec": "december",
    "mon": "monday", "tue": "tuesday", "tues": "tuesday", "wed": "wednesday", "thu": "thursday",
    "thurs": "thursday", "fri": "friday",
}  # fmt: skip
# Without a capital or a digit beside them these are ordinary words that end a sentence.
_ALSO_WORDS = frozenset(["co", "ed", "fig", "max", "min", "mon", "rep", "temp", "wed", "gen", "ave", "fri", "hon"])
_POINTED = {"e.g.": "for example", "i.e.": "that is", "a.k.a.": "also known as"}
_ROMAN_CUES = "War|Part|Chapter|Act|Volume|Phase|Type|Class|Book|Section|Title|Article|Bowl|Level|Stage|Unit"
_RULERS = (
    "Henry|Edward|George|William|Charles|James|Richard|Louis|Elizabeth|John|Paul|Pius|Leo|Benedict|Philip"
    "|Alexander|Catherine|Nicholas|Frederick|Napoleon|Gregory|Clement|Innocent|Robert|Peter|Ivan"
)
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50}

_VULGAR_FRACTION = re.compile("([¼-¾⅐-⅞])")
_POINTED_WORD = re.compile(r"\b(?:e\.g\.|i\.e\.|a\.k\.a\.)", re.IGNORECASE)
_INITIALS = re.compile(r"\b((?:[A-Za-z]\.){2,})(?=(\s+[A-Z]|\s*$)?)")
_SHORT_WORD = re.compile(r"\b([A-Za-z]+)\.(?=(\s*)([A-Za-z0-9]?))")
_LONE_INITIAL = re.compile(r"\b([A-HJ-Z])\.(?=\s+[A-Z])")
_NUMBER_SIGN = re.compile(r"\b[Nn]os?\.\s?(?=\d)")
_HOUSE_NUMBER_STREET = re.compile(r"(\d+ (?:[A-Z][a-z]+ )+)(St|Dr)\b(\.?)(?=(\s*[A-Z]|\s*$)?)")
_SAINT_OR_DOCTOR = re.compile(r"\b(St|Dr)\.?(?=\s+[A-Z])")
_STREET_AT_END = re.compile(r"(?<=[a-z0-9] )(St|Dr)\.(?=(\s*$)?)")
_ROMAN_CARDINAL = re.compile(rf"\b({_ROMAN_CUES}) ([IVXL]+)\b")
_ROMAN_ORDINAL = re.compile(rf"\b({_RULERS}) ([IVX]{{2,}}|V|X)\b")
_WEB_SCHEME = re.compile(r"\bhttps?://")
_WEB_DOT = re.compile(r"(?<=[A-Za-z0-9])\.(?=(?:com|org|net|edu|gov|io|ai|co|uk|de|fr|eu|html?|py|txt|pdf)\b)")


def plain_latin(text: str) -> str:
    """`text` with plain quotes, dashes and letters; accents are folded.

    Raises TextError, which names the characters, for letters of other scripts and symbols that nobody can
    read.
    """
    folded = unicodedata.normalize("NFKD", _VULGAR_FRACTION.sub(r" \1 ", text.translate(_TYPOGRAPHY)))
    kept = "".join(character for character in folded if not unicodedata.combining(character))
    kept = "".join(" " if _is_silent(character) else character for character in kept.translate(_TYPOGRAPHY))
    foreign = list(dict.fromkeys(mark for mark in kept if ord(mark) > 127 and mark not in "£€¥¢°"))
    if foreign:
        shown = " ".join(foreign[:10]) + (" ..." if len(foreign) > 10 else "")
        raise TextError(
            f"the small model reads English only and cannot read: {shown}; write the text in English, "
            "or load a large model for other languages"
        )
    return kept


def _is_silent(character: str) -> bool:
    """Whether a character (an emoji, an arrow, a control character) is passed over as a reader would."""
    silent = ("So", "Sk", "Cf", "Cc", "Co", "Zs", "Zl", "Zp")
    return ord(character) > 127 and character != "°" and unicodedata.category(character) in silent


def expand_abbreviations(text: str) -> str:
    """Titles, months, companies, initials, streets and saints, Roman numerals, and web addresses as words."""
    text = _POINTED_WORD.sub(lambda match: _POINTED[match[0].lower()], text)
    text = _NUMBER_SIGN.sub("number ", text)
    text = _INITIALS.sub(_initials, text)
    text = _LONE_INITIAL.sub(r"\1", text)
    text = _HOUSE_NUMBER_STREET.sub(lambda match: match[1] + _street(match[2], match[4]), text)
    text = _SAINT_OR_DOCTOR.sub(lambda match: "Saint" if match[1] == "St" else "Doctor", text)
    text = _STREET_AT_END.sub(lambda match: _street(match[1], match[2]), text)
    text = _SHORT_WORD.sub(_short_word, text)
    text = _ROMAN_CARDINAL.sub(lambda match: f"{match[1]} {_roman(match[2])}", text)
    text = _ROMAN_ORDINAL.sub(lambda match: f"{match[1]} the {_roman(match[2])}{_suffix(_roman(match[2]))}", text)
    return _WEB_DOT.sub(" dot ", _WEB_SCHEME.sub("", text))


def ends_with_abbreviation(text: str) -> bool:
    """Whether the point at the end of `text` belongs to a title, an initial or the like."""
    match = re.search(r"(?:^|[\s(\"'])([A-Za-z]+)\.$", text)
    if match is None:
        return bool(re.search(r"\b(?:e\.g|i\.e)\.$", text))
    word = match[1].lower()
    return (
        word in _COURTESY
        or word in _TITLES
        or word in ("dr", "st", "vs", "mt")
        or (len(word) == 1 and match[1].isupper() and word != "i")
    )


def expand_signs(text: str) -> str:
    """Signs such as & and @ as words; call it after numbers, which read some signs their own way."""
    text = re.sub(r"(?<=\w)/(?=\w)", " ", text)
    return re.sub("[&@%+=°#€£]", lambda match: f" {_SIGNS[match[0]]} ", text)


def lower_if_shouted(text: str) -> str:
    """Text without any lower-case letter is emphasis, not a row of abbreviations: in lower case.

    A single word stays as it is.
    """
    words = re.findall(r"[A-Za-z]+", text)
    return text.lower() if len(words) > 2 and text.upper() == text else text


def _initials(match: re.Match[str]) -> str:
    """`U.S.A.` as USA; the last point stays where the text ends, or a sentence may (`at 5 p.m. We left`)."""
    letters = match[1].replace(".", "").upper()
    following = match[2]
    ends = following is not None and (not following.strip() or letters in ("AM", "PM"))
    return letters + ("." if ends else "")


def _street(word: str, following: str | None) -> str:
    """Street or Drive; its point stays where `following`, the rest up to a capital or the end, says that it
    may."""
    return ("Street" if word == "St" else "Drive") + ("." if following is not None else "")


def _short_word(match: re.Match[str]) -> str:
    """A known abbreviation with its point; the point stays where the text, or a sentence, ends after it."""
    word, space, following = match[1].lower(), match[2], match[3]
    if word in _COURTESY or (word in _TITLES and following.isupper() and match[1][0].isupper()):
        return _TITLES[word]
    expansion = _ABBREVIATIONS.get(word)
    if expansion is None or (word in _ALSO_WORDS and not (match[1][0].isupper() and following)):
        return match[0]
    ends = not following or (following.isupper() and word in ("etc", "inc", "ltd", "co", "corp", "jr", "sr"))
    return expansion + ("." if ends and (space or not following) else "")


def _roman(numeral: str) -> int:
    values = [_ROMAN_VALUES[letter] for letter in numeral]
    following = [*values[1:], 0]
    return sum(-value if value < after else value for value, after in zip(values, following, strict=True))


def _suffix(number: int) -> str:
    if 10 <= number % 100 <= 20:
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
