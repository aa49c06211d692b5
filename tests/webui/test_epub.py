from __future__ import annotations

import contextlib
import random
import zipfile
from pathlib import Path

import pytest

from cosyvoice.errors import TextError
from cosyvoice.webui import epub
from cosyvoice.webui.documents import read_document

PAGE = """<?xml version="1.0"?><html><head><title>no</title><style>p {{}}</style></head><body>
<h1>{title}</h1><p>First <i>words</i> &amp; more.<br/>Next&#160;line.</p><script src="x"/><nav>menu</nav>
<div><p>Last.</p></div></body></html>"""


def write_book(path: Path, pages: dict[str, str], spine: list[str] | None = None, folder: str = "OPS/") -> Path:
    items = "".join(f'<opf:item id="{n}" href="t/{n}.xhtml" media-type="application/xhtml+xml"/>' for n in pages)
    order = "".join(f'<opf:itemref idref="{n}"/>' for n in (spine or list(pages)))
    meta = "<opf:metadata><dc:title>A Book</dc:title></opf:metadata>"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/container.xml", f'<container><rootfile full-path="{folder}b.opf"/></container>')
        archive.writestr(f"{folder}b.opf", f"<opf:package>{meta}{items}<opf:spine>{order}</opf:spine></opf:package>")
        for name, text in pages.items():
            archive.writestr(f"{folder}t/{name}.xhtml", text)
    return path


def test_pages_of_the_spine_become_chapters_in_its_order(tmp_path: Path) -> None:
    pages = {"b": PAGE.format(title="Two"), "a": PAGE.format(title="One"), "unused": PAGE.format(title="Three")}
    document = read_document(write_book(tmp_path / "x.epub", pages, ["a", "b"]))
    assert document.title == "A Book"
    assert [chapter.title for chapter in document.chapters] == ["One", "Two"]
    assert document.chapters[0].paragraphs == ("One", "First words & more.", "Next line.", "Last.")


def test_entities_of_the_document_are_not_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><html><body><p>Hi &b;</p></body></html>'
    document = read_document(write_book(tmp_path / "x.epub", {"a": bomb}))
    assert "aaaa" not in document.chapters[0].text


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = write_book(tmp_path / "x.epub", {"a": f"<p>{'a ' * 100_000}</p>"})
    assert book.stat().st_size < 5000
    monkeypatch.setattr(epub, "MAX_PAGE_BYTES", 50_000)
    with pytest.raises(TextError, match="more text than a book"):
        read_document(book)
    monkeypatch.setattr(epub, "MAX_PAGE_BYTES", 1_000_000)
    monkeypatch.setattr(epub, "MAX_TOTAL_BYTES", 150_000)
    with pytest.raises(TextError, match="more text than a book"):
        read_document(book)
    monkeypatch.setattr(epub, "MAX_MEMBERS", 2)
    with pytest.raises(TextError, match="more than 2 files"):
        read_document(book)


def test_places_outside_the_archive_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret.xhtml").write_text("<p>secret</p>")
    path = tmp_path / "x.epub"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", '<rootfile full-path="b.opf"/>')
        item = '<item id="a" href="../../secret.xhtml" media-type="application/xhtml+xml"/>'
        archive.writestr("b.opf", f'{item}<itemref idref="a"/>')
    with pytest.raises(TextError, match="lacks"):
        read_document(path)


@pytest.mark.parametrize("cut", [0, 10, 300, -30])
def test_damaged_files_are_refused(tmp_path: Path, cut: int) -> None:
    book = write_book(tmp_path / "x.epub", {"a": PAGE.format(title="One")})
    book.write_bytes(book.read_bytes()[:cut])
    with pytest.raises(TextError):
        read_document(book)


def test_random_damage_never_breaks_the_reader(tmp_path: Path) -> None:
    data = write_book(tmp_path / "x.epub", {"a": PAGE.format(title="One")}).read_bytes()
    generator = random.Random(1)
    for _ in range(200):
        broken = bytearray(data)
        for _ in range(generator.randint(1, 8)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        (tmp_path / "x.epub").write_bytes(broken)
        with contextlib.suppress(TextError):
            read_document(tmp_path / "x.epub")
