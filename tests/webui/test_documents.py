from __future__ import annotations

from pathlib import Path

import pytest

from cosyvoice.errors import TextError
from cosyvoice.webui import documents
from cosyvoice.webui.documents import markdown_document, plain_document, read_document


def test_lines_of_a_paragraph_are_joined() -> None:
    document = plain_document("One line\r\nand another.\n\n\nA second\tparagraph.\n")
    assert document.chapters[0].paragraphs == ("One line and another.", "A second paragraph.")
    assert document.characters == 40


def test_lines_that_name_chapters_begin_them() -> None:
    text = "Preface text.\n\nCHAPTER I\n\nIt began. Part of it did.\n\nChapter 2: The end\n\nIt ended."
    document = plain_document(text, "book")
    assert [chapter.title for chapter in document.chapters] == ["", "CHAPTER I", "Chapter 2: The end"]
    assert document.chapters[1].paragraphs == ("CHAPTER I", "It began. Part of it did.")


def test_headings_that_follow_each_other_are_one_chapter() -> None:
    document = plain_document("PART ONE\n\nChapter 1\n\nIt began.")
    assert [chapter.title for chapter in document.chapters] == ["PART ONE: Chapter 1"]


def test_markdown_loses_its_marks() -> None:
    text = """# The *Title* #
Some **bold**, _thin_ and `code` with a [link](http://x.y/z), snake_case and 2 * 3.

```python
print("not spoken")
```
- first ![image](a.png)
- second<br>

> quoted

---
## Second
<!-- hidden -->
Last."""
    document = markdown_document(text)
    assert [chapter.title for chapter in document.chapters] == ["The Title", "Second"]
    assert document.chapters[0].paragraphs == (
        "The Title",
        "Some bold, thin and code with a link, snake_case and 2 * 3.",
        "first",
        "second",
        "quoted",
    )
    assert document.chapters[1].text == "Second\n\nLast."


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.pdf", b"x", r"give a \.txt, \.md, \.epub file"),
        ("a.txt", b"\xff\xfa", "UTF-8"),
        ("a.txt", b"a\0b", "binary"),
        ("a.txt", b" \n ", "nothing to read"),
        ("a.md", b"```\ncode\n```", "nothing to read"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TextError, match=message):
        read_document(tmp_path / name)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_CHARACTERS", 10)
    with pytest.raises(TextError, match="split it into volumes"):
        plain_document("Eleven char")
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 10)
    (tmp_path / "a.txt").write_text("Eleven char")
    with pytest.raises(TextError, match="larger than"):
        read_document(tmp_path / "a.txt")


def test_utf_16_and_marks_of_utf_8_are_understood(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-8-sig"):
        (tmp_path / "a.txt").write_bytes("Hé".encode(encoding))
        assert read_document(tmp_path / "a.txt").chapters[0].text == "Hé"
