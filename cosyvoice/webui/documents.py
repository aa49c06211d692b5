"""Long texts as chapters of paragraphs: plain text, Markdown and EPUB.

Files come from strangers. An EPUB is a zip of web pages, so nothing of it is unpacked to disk, sizes are counted while
reading and not believed, and its XML is read by the HTML parser, which expands no entities of the document's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cosyvoice.errors import TextError

MAX_FILE_BYTES = 50 << 20
MAX_CHARACTERS = 2_000_000
"""Of a document, about a day of speech."""
SUFFIXES = (".txt", ".md", ".epub")

_HEADING = re.compile(r"(?:chapter|part|book|act|prologue|epilogue|kapitel|chapitre)\b.{0,60}", re.IGNORECASE)
_MARKDOWN_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*")


@dataclass(frozen=True)
class Chapter:
    """A title, empty where the document gives none, and what is spoken."""

    title: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        """Paragraphs with an empty line between them."""
        return "\n\n".join(self.paragraphs)


@dataclass(frozen=True)
class Document:
    """What is read aloud."""

    title: str
    chapters: tuple[Chapter, ...]

    @property
    def characters(self) -> int:
        """Length of all that is spoken."""
        return sum(len(paragraph) for chapter in self.chapters for paragraph in chapter.paragraphs)


def read_document(path: Path) -> Document:
    """The document in a file. Raises `TextError` for a file that is too large, damaged, empty or of another kind."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise TextError(f"{path.name} is no text that can be read aloud; give a {', '.join(SUFFIXES)} file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TextError(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MB; split it")
    if suffix == ".epub":
        from cosyvoice.webui.epub import read_epub

        return checked(read_epub(path))
    text = decode(path.read_bytes(), path.name)
    return plain_document(text, path.stem) if suffix == ".txt" else markdown_document(text, path.stem)


def decode(data: bytes, name: str) -> str:
    """Text in UTF-8, or in UTF-16 with a mark at its beginning. Raises `TextError` for anything else."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise TextError(f"{name} is no UTF-8 text; save it as UTF-8 and try again") from None
    if "\0" in text:
        raise TextError(f"{name} is no text but binary data; give a {', '.join(SUFFIXES)} file")
    return text


def plain_document(text: str, title: str = "") -> Document:
    """Chapters begin at lines such as "Chapter 3" that stand alone. Raises `TextError` for no text or too much."""
    collector = Collector()
    for paragraph in split_paragraphs(text):
        if _HEADING.fullmatch(paragraph) and not paragraph.endswith((".", ",", ";")):
            collector.heading(paragraph)
        collector.paragraph(paragraph)
    return checked(collector.document(title))


def markdown_document(text: str, title: str = "") -> Document:
    """Chapters begin at headings; marks of emphasis, links, images and code are left out. Errors as above."""
    text = re.sub(r"^(```|~~~).*?^\1\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # A heading or an item of a list is a paragraph of its own.
    text = re.sub(r"^(\s*#{1,6}\s.*)$", r"\n\1\n", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*(?:[-*+]|\d+[.)])\s+", "\n", text, flags=re.MULTILINE)
    collector = Collector()
    for paragraph in split_paragraphs(text):
        heading = _MARKDOWN_HEADING.fullmatch(paragraph)
        plain = _without_marks(heading[1] if heading else paragraph)
        if heading and plain:
            collector.heading(plain)
        if plain and not re.fullmatch(r"[-*_=\s|:]+", plain):
            collector.paragraph(plain)
    return checked(collector.document(title))


def split_paragraphs(text: str) -> list[str]:
    """Paragraphs between empty lines, each on one line; blanks are made one."""
    parts = re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n"))
    return [" ".join(part.split()) for part in parts if part.strip()]


class Collector:
    """Gathers headings and paragraphs into chapters."""

    def __init__(self) -> None:
        self._chapters: list[tuple[str, list[str]]] = []

    def heading(self, title: str) -> None:
        """Begin a chapter. Headings that follow each other directly share one."""
        if self._chapters and self._chapters[-1][1] == [self._chapters[-1][0]]:
            previous, paragraphs = self._chapters.pop()
            self._chapters.append((f"{previous}: {title}", [*paragraphs]))
            return
        self._chapters.append((title, []))

    def paragraph(self, text: str) -> None:
        """Add to the current chapter."""
        if not self._chapters:
            self._chapters.append(("", []))
        self._chapters[-1][1].append(text)

    def document(self, title: str) -> Document:
        """All that was gathered; chapters without text are left out."""
        chapters = tuple(Chapter(name, tuple(paragraphs)) for name, paragraphs in self._chapters if paragraphs)
        return Document(title, chapters)


def checked(document: Document) -> Document:
    """`document` itself. Raises `TextError` where it is empty or too long."""
    if not document.characters:
        raise TextError("there is nothing to read; give a text with at least one word")
    if document.characters > MAX_CHARACTERS:
        raise TextError(
            f"the text has {document.characters} characters, more than {MAX_CHARACTERS}; split it into volumes"
        )
    return document


def _without_marks(text: str) -> str:
    """Markdown of one paragraph as plain text."""
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])", r"\1", text)
    text = re.sub(r"^>\s?|\s>\s", " ", text)
    text = re.sub(r"(\*\*|__|~~|`)(.+?)\1", r"\2", text)
    text = re.sub(r"(?<![\w*])[*_]([^*_]+)[*_](?![\w*])", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"</?[A-Za-z][^>]*>", "", text)).strip()
