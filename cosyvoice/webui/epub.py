"""EPUB read by the standard library: the pages of its spine in order, as chapters."""

from __future__ import annotations

import posixpath
import re
import struct
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from cosyvoice.errors import TextError
from cosyvoice.webui.documents import Collector, Document, decode

MAX_MEMBERS = 10_000
MAX_PAGE_BYTES = 8 << 20
MAX_TOTAL_BYTES = 64 << 20
"""Of all pages together, unpacked."""

_BLOCKS = frozenset(
    [
        "p",
        "div",
        "li",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "blockquote",
        "section",
        "article",
        "td",
        "th",
        "dd",
        "dt",
        "pre",
        "br",
        "tr",
        "hr",
    ]
)
_HEADINGS = frozenset(["h1", "h2", "h3"])
_SILENT = frozenset(["script", "style", "head", "svg", "math", "nav", "rt", "rp", "audio", "video"])

# All that the library is known to raise over archives that are damaged or encrypted.
_DAMAGE = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error,
    NotImplementedError, RuntimeError, EOFError, OSError, ValueError,
)  # fmt: skip


def read_epub(path: Path) -> Document:
    """The text of an EPUB. Raises `TextError` for a file that is damaged, protected or too large."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _Book(archive, path.name).read(path.stem)
    except _DAMAGE as error:
        raise TextError(f"{path.name} is no intact EPUB without protection ({error}); convert it to text") from None


class _Book:
    """An open archive and how much of it has been read."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive, self._name, self._total = archive, name, 0
        if len(archive.infolist()) > MAX_MEMBERS:
            raise TextError(f"{name} holds more than {MAX_MEMBERS} files; it is no ordinary book, convert it to text")

    def read(self, title: str) -> Document:
        package = _Package()
        container = _Tags()
        container.feed(self._member("META-INF/container.xml"))
        roots = [attributes.get("full-path", "") for tag, attributes in container.tags if tag == "rootfile"]
        if not roots:
            raise TextError(f"{self._name} does not say where its contents are; convert it to text")
        package.feed(self._member(roots[0]))
        folder = posixpath.dirname(roots[0])
        collector = Collector()
        for page in package.pages():
            reader = _Page()
            reader.feed(self._member(posixpath.normpath(posixpath.join(folder, unquote(page)))))
            reader.close()
            reader.into(collector)
        return collector.document(package.title.strip() or title)

    def _member(self, name: str) -> str:
        """A file of the archive, counted while it is unpacked: what the archive says of sizes may be a lie."""
        try:
            with self._archive.open(name) as file:
                data = file.read(MAX_PAGE_BYTES + 1)
        except KeyError:
            raise TextError(f"{self._name} lacks {name}; convert it to text") from None
        self._total += len(data)
        if len(data) > MAX_PAGE_BYTES or self._total > MAX_TOTAL_BYTES:
            raise TextError(f"{self._name} unpacks to more text than a book has; convert it to text and split it")
        return decode(data, name)


class _Tags(HTMLParser):
    """All tags with their attributes; prefixes of namespaces are left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag.rpartition(":")[2], {key: value or "" for key, value in attrs}))


class _Package(_Tags):
    """The list of files and their order."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "title" and not self.title:
            self.title = data

    def pages(self) -> list[str]:
        """Places of the web pages of the spine, in order."""
        items = {a.get("id", ""): a for tag, a in self.tags if tag == "item"}
        spine = [items.get(a.get("idref", "")) for tag, a in self.tags if tag == "itemref"]
        return [
            item["href"]
            for item in spine
            if item and "html" in item.get("media-type", "") and item.get("href") and "nav" not in item.get(
                "properties", ""
            )
        ]  # fmt: skip


class _Page(HTMLParser):
    """A web page as headings and paragraphs."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks: list[tuple[bool, str]] = []
        self._text: list[str] = []
        self._silent = 0
        self._heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SILENT:
            self._silent += 1
        if tag in _BLOCKS:
            self._flush()
        if tag in _HEADINGS:
            self._heading = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # `<script src="..."/>` of XHTML ends at once.
        if tag in _BLOCKS:
            self._flush()

    def handle_endtag(self, tag: str) -> None:
        if tag in _SILENT:
            self._silent = max(self._silent - 1, 0)
        if tag in _BLOCKS:
            self._flush()
        if tag in _HEADINGS:
            self._heading = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._text.append(data)

    def into(self, collector: Collector) -> None:
        """Hand over what was read."""
        self._flush()
        for heading, text in self._blocks:
            if heading:
                collector.heading(text)
            collector.paragraph(text)

    def _flush(self) -> None:
        text = re.sub(r"\s+", " ", "".join(self._text)).strip()
        self._text = []
        if text:
            self._blocks.append((self._heading, text))
