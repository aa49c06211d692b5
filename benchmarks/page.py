"""The page in a real browser: every tab's main job done end to end with real audio, and pictures of it for the docs.

    python benchmarks/page.py [--images docs/images] [--instruct-model MODEL_DIR]

Needs the extra `webui`, `pip install playwright`, and a Chromium. The recording for cloning is spoken by the model and
comes in through the browser's microphone. Every line of the output is one check; the exit code is 1 if one failed.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import uvicorn
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Download, Locator, Page, Request, expect, sync_playwright

import cosyvoice
from cosyvoice.audio.io import AUDIO_FORMATS
from cosyvoice.webui.app import mount

PATIENCE_MS = 120_000
SPOKEN = "Please open the window before you go to bed, and remember to switch off the light."
BOOK = {
    "One": "<h1>Chapter One</h1><p>It was a cold morning. The old man went to the sea.</p>",
    "Two": "<h1>Chapter Two</h1><p>He waited all day long. Nobody came.</p><p>Then it rained &amp; rained.</p>",
}


# Notes all that the player schedules, so that what comes out of the loudspeaker can be put together again.
TAP = """
window.scheduled = [];
window.AudioContext = class extends AudioContext {
  createBufferSource() {
    const source = super.createBufferSource();
    const note = { start: 0, samples: null, dropped: false };
    const start = source.start.bind(source), stop = source.stop.bind(source);
    source.start = (time) => {
      Object.assign(note, { start: time, samples: Array.from(source.buffer.getChannelData(0)) });
      window.scheduled.push(note);
      start(time);
    };
    source.stop = () => { note.dropped = this.currentTime < note.start; stop(); };
    return source;
  }
};
"""


class Checks:
    """Findings, printed as they come."""

    def __init__(self) -> None:
        self.failed = 0

    def add(self, name: str, passed: bool, detail: str = "") -> None:
        self.failed += not passed
        print(f"{'ok  ' if passed else 'FAIL'} {name}{f': {detail}' if detail else ''}", flush=True)


@contextmanager
def server(port: int, model: Path | None = None) -> Iterator[str]:
    """The page of `model`, the shipped one otherwise, mounted at /ui as in the API's server."""
    app = mount(FastAPI(), cosyvoice.load(model))
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.1)
    try:
        yield f"http://127.0.0.1:{port}/ui/"
    finally:
        running.should_exit = True
        thread.join(10)


def write_epub(path: Path) -> None:
    """A book of two chapters."""
    manifest = "".join(f'<item id="{n}" href="{n}.xhtml" media-type="application/xhtml+xml"/>' for n in BOOK)
    spine = "".join(f'<itemref idref="{name}"/>' for name in BOOK)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", '<container><rootfile full-path="OPS/book.opf"/></container>')
        head = "<metadata><dc:title>The Sea</dc:title></metadata>"
        archive.writestr(
            "OPS/book.opf", f"<package>{head}<manifest>{manifest}</manifest><spine>{spine}</spine></package>"
        )
        for name, body in BOOK.items():
            archive.writestr(f"OPS/{name}.xhtml", f"<html><head><title>x</title></head><body>{body}</body></html>")


def downloaded(page: Page, click: Callable[[], Any]) -> bytes:
    """What a click gives to take along."""
    with page.expect_download() as waiting:
        click()
    download: Download = waiting.value
    return Path(download.path()).read_bytes()


class Players:
    """What the players of the page load; they keep it to themselves, so the requests are watched."""

    def __init__(self, page: Page) -> None:
        self._page, self._loaded = page, list[str]()
        page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if "/file=" in request.url and request.url.endswith((".wav", ".mp3")):
            self._loaded.append(request.url)

    def audio(self, start: Callable[[], Any]) -> tuple[np.ndarray, int]:
        """Samples and rate of what a player loads after `start`."""
        before = len(self._loaded)
        start()
        end = time.monotonic() + PATIENCE_MS / 1000
        while len(self._loaded) == before:
            if time.monotonic() > end:
                raise TimeoutError("no player was given anything")
            self._page.wait_for_timeout(100)
        samples, rate = soundfile.read(io.BytesIO(self._page.request.get(self._loaded[-1]).body()), dtype="float32")
        return samples, rate


def heard_samples(page: Page, rate: int) -> np.ndarray:
    """What the player has put into the clock of its audio context."""
    notes = [note for note in page.evaluate("() => window.scheduled") if not note["dropped"]]
    begin = notes[0]["start"]
    places = [round((note["start"] - begin) * rate) for note in notes]
    total = np.zeros(max(place + len(note["samples"]) for place, note in zip(places, notes, strict=True)))
    for place, note in zip(places, notes, strict=True):
        total[place : place + len(note["samples"])] += note["samples"]
    return total


def message(page: Page) -> str:
    """The error that the page shows; all messages are closed afterwards."""
    toast = page.locator(".toast-body.error").last
    expect(toast).to_be_visible(timeout=PATIENCE_MS)
    text = " ".join(toast.inner_text().split()).removeprefix("Error × ")
    while page.locator(".toast-close").count():
        page.locator(".toast-close").first.click()
        page.wait_for_timeout(400)
    return text


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.wait_for_timeout(500)


def picture(page: Page, folder: Path, name: str) -> None:
    """A small PNG of the page as it is: 192 colours are enough for it."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(600)
    image = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    image.quantize(192, dither=Image.Dither.NONE).save(folder / f"page-{name}.png", optimize=True)


def speak(page: Page, players: Players, checks: Checks) -> None:
    """By keyboard, with a seed; heard while it is made, then downloaded in all formats."""
    text = page.locator("#speak-text textarea")
    text.fill("The ship came in with the tide. Everybody was glad to see it again.")
    page.get_by_role("tabpanel").get_by_label("Seed").first.fill("7")
    page.evaluate("() => { window.scheduled = []; }")
    samples, rate = players.audio(lambda: text.press("Shift+Enter"))
    page.wait_for_function("() => window.cosyvoicePlayer.state.finished", timeout=PATIENCE_MS)
    heard = page.evaluate(
        "() => { const { context, sources, tail, ...rest } = window.cosyvoicePlayer.state; return rest; }"
    )
    streamed = heard["played"] == len(samples) and heard["chunks"] >= 2
    checks.add("speak: streamed samples are those of the file", streamed, f"{len(samples)} samples, {heard}")
    scheduled = heard_samples(page, rate)
    seamless = len(scheduled) == len(samples) and np.abs(scheduled - samples).max() < 1e-4
    # A chunk that comes late on a busy machine leaves a pause, which must not click either.
    steps = np.abs(np.diff(scheduled)).max() / np.abs(np.diff(samples)).max()
    checks.add("speak: played without a seam", seamless or (heard["underruns"] > 0 and steps < 1.05), f"{steps:.3f}")
    checks.add("speak: audible", float(np.abs(samples).max()) > 0.05, f"{len(samples) / rate:.2f} s")
    for name in AUDIO_FORMATS:
        page.locator("#speak-format input").click()
        page.get_by_role("option", name=name, exact=True).click()
        button = page.locator("#speak-download")
        expect(button).to_contain_text(name.upper(), timeout=PATIENCE_MS)
        data, _ = soundfile.read(io.BytesIO(downloaded(page, button.click)))
        checks.add(f"speak: download {name}", abs(len(data) - len(samples)) < 0.1 * rate)
    expect(page.locator("#speak-picture img")).to_be_visible(timeout=PATIENCE_MS)
    checks.add("speak: spectrogram and timings", "real-time factor" in page.locator("#speak-facts").inner_text())


def refused(page: Page, checks: Checks) -> None:
    """Errors are one line that names the cure."""
    page.locator("#speak-text textarea").fill("...")
    page.locator("#speak-go").click()
    told = message(page)
    checks.add("speak: nothing to say is refused", "at least one word" in told, told)
    page.locator("#speak-text textarea").fill("你好")
    page.locator("#speak-go").click()
    told = message(page)
    checks.add("speak: a foreign script is refused", "English" in told, told)


def stopped(page: Page, checks: Checks) -> None:
    """Stop silences the browser and ends the work behind it."""
    page.locator("#speak-text textarea").fill("He waited all day long, and nobody came. " * 20)
    page.locator("#speak-go").click()
    page.wait_for_function(
        "() => !cosyvoicePlayer.state.finished && cosyvoicePlayer.state.chunks > 0", timeout=PATIENCE_MS
    )
    page.locator("#speak-stop").click()
    page.wait_for_timeout(500)
    silent = page.evaluate("() => window.cosyvoicePlayer.state.sources.length") == 0
    chunks = page.evaluate("() => window.cosyvoicePlayer.state.chunks")
    page.wait_for_timeout(6000)
    checks.add("speak: stop silences", silent)
    checks.add("speak: nothing is played after stop", page.evaluate("() => cosyvoicePlayer.state.chunks") == chunks)
    checks.add("speak: stop ends the work", "speaking" in page.locator("#speak-facts").inner_text())


def keyboard(page: Page, checks: Checks) -> None:
    """Every tab and its main button can be reached and used without a mouse."""
    reached = []
    page.get_by_role("tab", name="Speak").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.textContent.trim()"))
    page.wait_for_timeout(500)
    menus = page.locator("ul.option-list").count()
    checks.add("keyboard: no menu stays open behind it", menus == 0)
    page.get_by_role("tab", name="Clone").focus()
    page.keyboard.press("Enter")
    chosen = page.get_by_role("tab", name="Clone").get_attribute("aria-selected") == "true"
    checks.add("keyboard: a tab opens with Enter", chosen)
    checks.add("keyboard: the button is reached", "speak-go" in reached, " > ".join(item[:14] for item in reached))
    open_tab(page, "Speak")


def clone(page: Page, players: Players, checks: Checks) -> None:
    """Recorded with the microphone, checked, refused without consent, tried, saved."""
    open_tab(page, "Clone")
    recording = page.locator("#clone-recording")
    recording.get_by_label("Record audio").click()
    recording.locator(".record-button").click()
    page.wait_for_timeout(6500)
    recording.locator(".stop-button").click()
    findings = page.locator("#clone-findings")
    expect(findings).to_contain_text("s of speech", timeout=PATIENCE_MS)
    page.locator("#clone-transcript textarea").fill(SPOKEN)
    expect(findings).to_contain_text("transcript fits", timeout=PATIENCE_MS)
    expect(findings).to_contain_text("the words of the transcript", timeout=PATIENCE_MS)
    checks.add("clone: the recording is checked", True, " | ".join(findings.inner_text().split("\n")))
    page.locator("#clone-name input, #clone-name textarea").fill("browser-voice")
    page.locator("#clone-save").click()
    told = message(page)
    checks.add("clone: no voice without consent", "consent" in told, told)
    page.locator("#clone-allowed input").check()
    page.locator("#clone-consent input, #clone-consent textarea").fill("the model itself, for this test")
    samples, rate = players.audio(page.locator("#clone-try").click)
    checks.add("clone: trial is audible", float(np.abs(samples).max()) > 0.05, f"{len(samples) / rate:.2f} s")
    page.locator("#clone-save").click()
    expect(page.locator("#clone-saved")).to_contain_text("is saved", timeout=PATIENCE_MS)
    checks.add("clone: the voice is saved", True)


def convert(page: Page, players: Players, checks: Checks, recording: Path) -> None:
    """A recording in another voice, of about the same length."""
    open_tab(page, "Convert")
    page.locator("#convert-source input[type=file]").set_input_files(recording)
    page.wait_for_timeout(1500)
    samples, rate = players.audio(page.locator("#convert-go").click)
    source = soundfile.info(str(recording)).duration
    close = abs(len(samples) / rate - source) < 0.3 * source
    checks.add("convert: as long as the recording", close, f"{len(samples) / rate:.2f} s of {source:.2f} s")
    checks.add("convert: audible", float(np.abs(samples).max()) > 0.05)


def instruct(page: Page, checks: Checks) -> None:
    """The small model says why it takes no instructions."""
    open_tab(page, "Instruct")
    checks.add("instruct: explained", "follows no instructions" in page.locator("#instruct-none").inner_text())


def instructed(page: Page, players: Players, checks: Checks, recording: Path, folder: Path) -> None:
    """A model that follows instructions, with a voice that is cloned first, is told how to speak."""
    open_tab(page, "Clone")
    page.locator("#clone-recording input[type=file]").set_input_files(recording)
    page.locator("#clone-name input, #clone-name textarea").fill("spoken")
    page.locator("#clone-allowed input").check()
    page.locator("#clone-consent input, #clone-consent textarea").fill("the model itself, for this test")
    expect(page.locator("#clone-findings")).to_contain_text("s of speech", timeout=PATIENCE_MS)
    page.locator("#clone-save").click()
    expect(page.locator("#clone-saved")).to_contain_text("is saved", timeout=PATIENCE_MS)
    open_tab(page, "Instruct")
    page.locator("#instruct-text textarea").fill("Hello there.")
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#instruct-go"))
    choose(page, panel, "How to say it", "请非常开心地说一句话。")
    choose(page, panel, "Voice", "spoken")
    choose(page, panel, "Language", "English")
    samples, rate = players.audio(page.locator("#instruct-go").click)
    loudest = float(np.abs(samples).max())
    checks.add("instruct: spoken as told", loudest > 0.0, f"{len(samples) / rate:.2f} s, peak {loudest:.3f}")
    picture(page, folder, "instruct-light")


def choose(page: Page, panel: Locator, label: str, option: str) -> None:
    """An option of a dropdown."""
    panel.get_by_label(label, exact=True).first.click()
    page.get_by_role("option", name=option, exact=True).click()


def long_text(page: Page, checks: Checks, book: Path) -> None:
    """An EPUB in chapters with subtitles, paused and resumed on the way."""
    open_tab(page, "Long text")
    page.locator("#long-file input[type=file]").set_input_files(book)
    expect(page.locator("#long-about")).to_contain_text("2 chapter(s)", timeout=PATIENCE_MS)
    page.get_by_label("a file for each chapter").check()
    page.locator("#long-start").click()
    status = page.locator("#long-status")
    expect(status).to_contain_text("reading:", timeout=PATIENCE_MS)
    page.locator("#long-pause").click()
    expect(page.locator("#long-pause")).to_contain_text("Resume", timeout=PATIENCE_MS)
    # The sentence that is being spoken is spoken to its end.
    before, end = "", time.monotonic() + 60
    while status.inner_text() != before and time.monotonic() < end:
        before = status.inner_text()
        page.wait_for_timeout(4000)
    unfinished = "paused" in before and "6 of 6" not in before
    checks.add("long text: paused", status.inner_text() == before and unfinished, " | ".join(before.split("\n")))
    page.locator("#long-pause").click()
    expect(status).to_contain_text("finished", timeout=PATIENCE_MS)
    checks.add("long text: finished", "could not" not in status.inner_text(), status.inner_text().split("\n")[0])
    data = downloaded(page, page.locator("#long-files").get_by_role("link").first.click)
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = sorted(archive.namelist())
    expected = ["chapter-001.mp3", "chapter-001.srt", "chapter-002.mp3", "chapter-002.srt"]
    checks.add("long text: chapters and subtitles", names == expected, ", ".join(names))
    subtitles = archive.read("chapter-002.srt").decode()
    checks.add("long text: subtitles have the text", "Nobody came." in subtitles and "-->" in subtitles)
    heard, rate = soundfile.read(io.BytesIO(archive.read("chapter-001.mp3")))
    checks.add("long text: chapters are audible", float(np.abs(heard).max()) > 0.05, f"{len(heard) / rate:.1f} s")


def voices(page: Page, players: Players, checks: Checks) -> None:
    """The cloned voice is listed, heard, and deleted for good."""
    open_tab(page, "Voices")
    expect(page.locator("#voices-table")).to_contain_text("browser-voice", timeout=PATIENCE_MS)
    page.locator("#voices-voice input").click()
    page.get_by_role("option", name="browser-voice").click()
    samples, rate = players.audio(page.locator("#voices-play").click)
    checks.add("voices: preview is audible", float(np.abs(samples).max()) > 0.05, f"{len(samples) / rate:.2f} s")
    page.locator("#voices-delete").click()
    told = message(page)
    checks.add("voices: deletion is asked twice", "cannot be undone" in told, told)
    page.locator("#voices-sure input").check()
    page.locator("#voices-delete").click()
    expect(page.locator("#voices-table")).not_to_contain_text("browser-voice", timeout=PATIENCE_MS)
    checks.add("voices: deleted", "browser-voice" not in cosyvoice.load().voices())


def looks(page: Page, checks: Checks, folder: Path, mode: str) -> None:
    """Pictures of what the jobs left on the page, and that nothing sticks out at its side."""
    for tab in ("Speak", "Clone", "Long text", "Voices") if mode == "light" else ("Speak", "Clone"):
        open_tab(page, tab)
        wide = page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
        checks.add(f"{mode}: {tab} fits the width", wide <= 0, f"{wide} px too wide" if wide > 0 else "")
        picture(page, folder, f"{tab.split()[0].lower()}-{mode}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=Path(__file__).parent.parent / "docs" / "images")
    parser.add_argument("--port", type=int, default=7869)
    parser.add_argument("--instruct-model", type=Path, help="a model that follows instructions, however small")
    arguments = parser.parse_args()
    arguments.images.mkdir(parents=True, exist_ok=True)
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COSYVOICE_HOME"] = folder
        recording, book = Path(folder) / "spoken.wav", Path(folder) / "sea.epub"
        cosyvoice.load().say(SPOKEN, voice="ryan", seed=1).save(recording)
        write_epub(book)
        flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        flags += [f"--use-file-for-fake-audio-capture={recording}%noloop", "--autoplay-policy=no-user-gesture-required"]
        with server(arguments.port) as address, sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            page = browser.new_page(viewport={"width": 1200, "height": 820})
            page.add_init_script(TAP)
            players = Players(page)
            outside: list[str] = []
            page.on("request", lambda request: outside.append(request.url))
            page.goto(address)
            page.wait_for_selector("#speak-go", timeout=PATIENCE_MS)
            stopped(page, checks)
            keyboard(page, checks)
            speak(page, players, checks)
            clone(page, players, checks)
            convert(page, players, checks, recording)
            instruct(page, checks)
            long_text(page, checks, book)
            open_tab(page, "Voices")
            looks(page, checks, arguments.images, "light")
            page.emulate_media(color_scheme="dark")
            page.evaluate("() => document.body.classList.add('dark')")
            looks(page, checks, arguments.images, "dark")
            page.set_viewport_size({"width": 390, "height": 844})
            looks(page, checks, arguments.images, "phone")
            page.set_viewport_size({"width": 1200, "height": 820})
            voices(page, players, checks)
            open_tab(page, "Speak")
            refused(page, checks)
            foreign = [url for url in outside if not url.startswith((address.rsplit("/", 2)[0], "data:", "blob:"))]
            checks.add("nothing is fetched from other hosts", not foreign, ", ".join(foreign[:3]))
            page.close()
            if arguments.instruct_model is not None:
                with server(arguments.port + 1, arguments.instruct_model) as address:
                    page = browser.new_page(viewport={"width": 1200, "height": 820})
                    players = Players(page)
                    page.goto(address)
                    page.wait_for_selector("#speak-go", timeout=PATIENCE_MS)
                    instructed(page, players, checks, recording, arguments.images)
            browser.close()
    for image in arguments.images.glob("page-*.png"):
        checks.add(f"{image.name} is small", image.stat().st_size < 200_000, f"{image.stat().st_size // 1000} kB")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
