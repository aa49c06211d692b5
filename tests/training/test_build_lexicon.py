from pathlib import Path

import pytest

from cosyvoice.errors import TextError
from cosyvoice.text.lexicon import Lexicon
from cosyvoice.training.build_lexicon import COMMON_READINGS, build_lexicon, parse_dictionary


def test_first_pronunciations_are_kept_and_stress_is_folded() -> None:
    lines = [";;; comment", "Either IY1 DH ER0 # note", "either(2) AY1 DH ER0", "", "outside AW1 T S AY2 D"]
    assert parse_dictionary(lines) == {
        "either": ["IY1", "DH", "ER0"],
        "outside": ["AW1", "T", "S", "AY1", "D"],
    }


@pytest.mark.parametrize("line", ["word", "word QQ1"])
def test_bad_lines_are_errors(line: str) -> None:
    with pytest.raises(TextError):
        parse_dictionary([line])


def test_built_file_prefers_common_readings(tmp_path: Path) -> None:
    source, target = tmp_path / "dict", tmp_path / "data" / "lexicon.xz"
    source.write_text("wind W AY1 N D\ncat K AE1 T\n")
    assert build_lexicon(source, target) == 1 + len(COMMON_READINGS)
    assert Lexicon(target).get("wind") == ["W", "IH1", "N", "D"]
    assert Lexicon(target).get("cat") == ["K", "AE1", "T"]
