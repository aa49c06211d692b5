from __future__ import annotations

import numpy as np
import pytest

from cosyvoice.engine import alignment
from cosyvoice.engine.alignment import WordFrames, align_words
from cosyvoice.errors import AudioError
from cosyvoice.text.phone_classes import CLASSES, phone_class


def heard(sounds: str, frames: int = 3, sure: float = 0.9) -> np.ndarray:
    """Log-probabilities of a recogniser that hears each of `sounds` ('pau' is a pause) for some frames."""
    probabilities = np.full((frames * len(sounds.split()), len(CLASSES)), (1 - sure) / (len(CLASSES) - 1))
    for index, sound in enumerate(sounds.split()):
        probabilities[index * frames : (index + 1) * frames, phone_class(sound)] = sure
    return np.log(probabilities).astype(np.float32)


def test_words_are_found_with_pauses_and_without() -> None:
    log_probs = heard("pau HH AH L OW W ER L D pau pau Y EH S")
    placed = align_words(log_probs, [["HH", "AH0", "L", "OW1"], ["W", "ER1", "L", "D"], ["Y", "EH1", "S"]])
    assert [(word.start, word.end) for word in placed] == [(3, 15), (15, 27), (33, 42)]
    assert all(word.score == pytest.approx(0.9, abs=1e-5) for word in placed)


def test_a_word_said_twice_is_found_twice() -> None:
    placed = align_words(heard("N OW N OW"), [["N", "OW1"], ["N", "OW1"]])
    assert [(word.start, word.end) for word in placed] == [(0, 6), (6, 12)]


def test_a_word_that_was_not_said_has_a_low_score_and_spoils_no_other() -> None:
    words = [["HH", "AH0", "L", "OW1"], ["K", "AE1", "T"], ["Y", "EH1", "S"]]
    first, absent, last = align_words(heard("pau HH AH L OW pau Y EH S pau"), words)
    assert absent.score < 0.2 < min(first.score, last.score)
    assert abs(first.start - 3) <= 1 and abs(last.end - 27) <= 1


def test_one_frame_a_phone_is_enough_and_fewer_are_refused() -> None:
    words = [["K", "AE1", "T"], ["S", "AE1", "T"]]
    assert align_words(heard("K AE T S AE T", frames=1), words)[1] == WordFrames(3, 6, pytest.approx(0.9, abs=1e-5))
    with pytest.raises(AudioError, match="room for 5 sounds and the text has 6"):
        align_words(heard("K AE T S AE", frames=1), words)


def test_the_window_changes_nothing_where_the_text_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    words = [[CLASSES[c].replace("pau", "S") for c in random.integers(0, 40, 4)] for _ in range(100)]
    sounds = " ".join(phone for word in words for phone in [*word, *(["pau"] if random.random() < 0.3 else [])])
    log_probs = heard(sounds, frames=2, sure=0.4)
    everything = align_words(log_probs, words)
    monkeypatch.setattr(alignment, "WINDOW", 30)
    assert align_words(log_probs, words) == everything


def test_a_narrow_window_still_reaches_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "WINDOW", 5)
    words = [["K", "AE1", "T"]] * 40
    # All of it at the very end: the window has to follow the frames that remain, not the best state.
    placed = align_words(np.concatenate([heard("pau " * 30), heard("K AE T " * 40, frames=1)]), words)
    assert [word.start for word in placed] == sorted(word.start for word in placed)
    assert placed[-1].end == 210
