import ctypes.util
import shutil

import numpy as np
import pytest

from cosyvoice.errors import MissingDependencyError
from cosyvoice.text.phones import PhoneTokenizer
from cosyvoice.training.corpus import synthesisers
from cosyvoice.training.corpus.synthesisers import PAUSE, Flite, Spoken, _read_festival, _spell, festival_speak

TEXT = "Hello world, this is 4 o'clock."


def check(spoken: Spoken) -> None:
    ends = [end for _, end in spoken.segments]
    assert ends == sorted(ends)
    # Some voices cut the last pause short.
    assert ends[-2] < len(spoken.samples) / spoken.sample_rate < ends[-1] + 0.05
    phones = [name for name, _ in spoken.segments if name != PAUSE]
    assert [s for s in spoken.symbols if s in set(phones)] == phones
    assert phones[:4] in (["HH", "AH0", "L", "OW1"], ["HH", "EH0", "L", "OW1"])
    assert "," in spoken.symbols and spoken.symbols[-1] == "."
    PhoneTokenizer().encode_phones(spoken.symbols)
    assert np.abs(spoken.samples).max() > 0.05


@pytest.mark.skipif(
    shutil.which("festival") is None or ctypes.util.find_library("flite") is None,
    reason="speaks with Debian's flite and festival",
)
def test_both_synthesisers_tell_what_they_speak_when():
    flite = Flite()
    spoken = flite.speak("cmu_us_kal16", TEXT)
    check(spoken)
    assert len(flite.speak("cmu_us_kal16", TEXT, 1.5).samples) > 1.3 * len(spoken.samples)
    both = festival_speak("kal_diphone", [TEXT, "Yes, we can."])
    assert len(both) == 2
    check(both[0])


def test_words_and_segments_are_joined_into_symbols():
    words = [([("hh", 0), ("ax", 0)], ","), ([("l", 1)], "")]
    ends = [("pau", 0.1), ("hh", 0.2), ("ax", 0.3), ("pau", 0.4), ("pau", 0.5), ("l", 0.6)]
    spoken, symbols = _spell(words, ends)
    assert spoken == [("pau", 0.1), ("HH", 0.2), ("AH0", 0.3), ("pau", 0.5), ("L", 0.6)]
    assert symbols == ["HH", "AH0", ",", "L", "."]


def test_a_syllabic_consonant_is_two_symbols_that_share_its_time():
    spoken, _ = _spell([([("b", 1), ("el", 0)], "")], [("b", 0.1), ("el", 0.3)])
    assert [(name, pytest.approx(end)) for name, end in spoken] == [("B", 0.1), ("AH0", 0.2), ("L", 0.3)]


def test_a_segment_of_no_word_lengthens_the_phone_before_it():
    spoken, symbols = _spell([([("er", 1), ("z", 0)], "")], [("er", 0.1), ("r", 0.2), ("z", 0.3)])
    assert spoken == [("ER1", 0.2), ("Z", 0.3)]
    assert symbols == ["ER1", "Z", "."]


def test_words_that_were_not_spoken_are_an_error():
    with pytest.raises(ValueError, match="disagree"):
        _spell([([("hh", 0), ("ax", 0)], "")], [("hh", 0.1)])


def test_festival_puts_a_mark_behind_the_word_before_it(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "0.wav", np.zeros(1600), 16000)
    block = "/0.wav\nS pau 0.1\nS hh 0.2\nS iy 0.3\nW\nP hh 1\nP iy 1\nT 0\nW\nT ?\n"
    spoken = _read_festival(block, tmp_path / "0.wav")
    assert spoken.symbols == ["HH", "IY1", "?"]
    assert (spoken.sample_rate, len(spoken.samples)) == (16000, 1600)


def test_missing_festival_names_its_packages(monkeypatch):
    monkeypatch.setattr(synthesisers.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="apt-get install festival"):
        festival_speak("kal_diphone", ["Hello."])
