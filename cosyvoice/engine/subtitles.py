"""Subtitles of speech: words with their times, grouped into cues that can be read, as SRT or WebVTT.

A cue ends where a person would look up: at the end of a sentence, at a pause, at a mark when it is long enough, and at
the latest when it is full. It stays a little after its last word, but never into the next cue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosyvoice.audio.io import write_bytes_atomically
from cosyvoice.engine.alignment import WordTime
from cosyvoice.errors import OutputError

SUBTITLE_FORMATS = ("srt", "vtt")
_SENTENCE_ENDS = (".", "!", "?", "…")
_MARKS = (",", ";", ":", "—", "–", "-")
_CLOSING = "\"'”’»)]"


@dataclass(frozen=True)
class Cue:
    """A text and when it is shown, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class CueRules:
    """The usual limits of subtitles: two lines of 42 characters."""

    line: int = 42
    """Characters of a line."""
    lines: int = 2
    pause: float = 0.6
    """Seconds of silence that end a cue."""
    seconds: float = 6.0
    """Longest cue."""
    linger: float = 0.3
    """Seconds that a cue stays after its last word, where nothing follows."""

    def cues(self, words: Iterable[WordTime]) -> list[Cue]:
        """Cues of `words`, in order and without overlap."""
        groups: list[list[WordTime]] = []
        for word in words:
            if not groups or self._ends(groups[-1], word):
                groups.append([])
            groups[-1].append(word)
        cues = []
        for number, group in enumerate(groups):
            following = groups[number + 1][0].start if number + 1 < len(groups) else float("inf")
            text = "\n".join(_wrap([word.word for word in group], self.line))
            cues.append(Cue(group[0].start, min(group[-1].end + self.linger, following), text))
        return cues

    def _ends(self, group: Sequence[WordTime], word: WordTime) -> bool:
        """Whether `group` is a cue, and `word` begins the next."""
        last = group[-1].word.rstrip(_CLOSING)
        text = [item.word for item in group]
        if word.start - group[-1].end >= self.pause or word.end - group[0].start > self.seconds:
            return True
        if last.endswith(_SENTENCE_ENDS) or len(_wrap([*text, word.word], self.line)) > self.lines:
            return True
        return last.endswith(_MARKS) and len(" ".join(text)) > self.line


def _wrap(words: Sequence[str], width: int) -> list[str]:
    """Lines of at most `width` characters, of about equal length; a longer word has a line of its own."""
    lines = _fill(words, width)
    if len(lines) == 2:
        # The first break that fits both lines with the smallest difference reads best.
        breaks = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
        fitting = [pair for pair in breaks if max(map(len, pair)) <= width]
        if fitting:
            best = min(fitting, key=lambda pair: abs(len(pair[0]) - len(pair[1])))
            return [*best]
    return lines


def _fill(words: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def format_subtitles(words: Iterable[WordTime], subtitle_format: str, rules: CueRules | None = None) -> str:
    """The content of a subtitle file, `srt` (SubRip) or `vtt` (WebVTT). Raises `OutputError` for another format."""
    return format_cues((rules or CueRules()).cues(words), subtitle_format)


def format_cues(cues: Iterable[Cue], subtitle_format: str) -> str:
    """`format_subtitles` of finished cues."""
    check_format(subtitle_format)
    vtt = subtitle_format == "vtt"
    mark = "." if vtt else ","
    blocks = ["WEBVTT"] if vtt else []
    for number, cue in enumerate(cues, 1):
        text = _escape(cue.text) if vtt else cue.text
        blocks.append(f"{number}\n{_clock(cue.start, mark)} --> {_clock(cue.end, mark)}\n{text}")
    return "\n\n".join(blocks) + "\n"


def check_format(subtitle_format: str) -> None:
    """Raise `OutputError` for a format that is not written."""
    if subtitle_format not in SUBTITLE_FORMATS:
        raise OutputError(f"unknown subtitle format {subtitle_format!r}; use one of {', '.join(SUBTITLE_FORMATS)}")


def write_subtitles(path: str | Path, words: Iterable[WordTime]) -> Path:
    """Write a file; the format follows the extension. Raises `OutputError`."""
    path = Path(path)
    text = format_subtitles(words, path.suffix.lstrip(".").lower())
    write_bytes_atomically(path, text.encode())
    return path


def _escape(text: str) -> str:
    """WebVTT reads tags and entities in the text of a cue."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"
