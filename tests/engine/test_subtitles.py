from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from cosyvoice.engine.alignment import WordTime
from cosyvoice.engine.subtitles import CueRules, format_subtitles, write_subtitles
from cosyvoice.errors import OutputError


def spoken(text: str, seconds: float = 0.4, start: float = 0.0) -> list[WordTime]:
    """Words one after the other; '|' is a pause of a second."""
    words, now = [], start
    for word in text.split():
        if word == "|":
            now += 1.0
            continue
        words.append(WordTime(word, now, now + seconds, 0.9))
        now += seconds
    return words


def test_cues_end_with_sentences_and_pauses() -> None:
    cues = CueRules().cues(spoken('He said "yes." Then nothing | happened at all'))
    assert [cue.text for cue in cues] == ['He said "yes."', "Then nothing", "happened at all"]
    # The first lasts until the second begins, the second lingers into the pause.
    assert [(cue.start, round(cue.end, 3)) for cue in cues] == [(0.0, 1.2), (pytest.approx(1.2), 2.3), (3.0, 4.5)]


def test_long_sentences_are_cut_at_marks_and_never_overflow() -> None:
    text = "When the rain had stopped and everybody was inside again, the old man began to tell us " * 3
    rules = CueRules(line=30)
    cues = rules.cues(spoken(text, 0.2))
    assert " ".join(cue.text.replace("\n", " ") for cue in cues) == text.strip()
    for cue in cues:
        lines = cue.text.split("\n")
        assert len(lines) <= 2 and max(map(len, lines)) <= 30
        assert cue.end - cue.start <= rules.seconds + rules.linger
    assert any(cue.text.endswith("again,") for cue in cues)
    assert all(a.end <= b.start for a, b in itertools.pairwise(cues))


def test_slow_speech_is_cut_by_time() -> None:
    cues = CueRules(seconds=2.0).cues(spoken("one two three four five six", 0.9))
    assert [cue.text for cue in cues] == ["one two", "three four", "five six"]


def test_srt() -> None:
    assert format_subtitles(spoken("Hello there. Bye", start=3599.9996), "srt") == (
        "1\n01:00:00,000 --> 01:00:00,800\nHello there.\n\n2\n01:00:00,800 --> 01:00:01,500\nBye\n"
    )


def test_vtt_escapes_what_it_would_read_as_tags() -> None:
    text = format_subtitles(spoken("R&D is <b>"), "vtt")
    assert text == "WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.500\nR&amp;D is &lt;b&gt;\n"


def test_no_words_give_an_empty_file() -> None:
    assert format_subtitles([], "vtt") == "WEBVTT\n"


def test_the_format_follows_the_extension(tmp_path: Path) -> None:
    assert write_subtitles(tmp_path / "a.vtt", spoken("Hi")).read_text().startswith("WEBVTT")
    with pytest.raises(OutputError, match="unknown subtitle format 'txt'; use one of srt, vtt"):
        write_subtitles(tmp_path / "a.txt", spoken("Hi"))
