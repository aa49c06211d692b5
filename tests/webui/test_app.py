"""The page without a browser: its handlers are called as its events do, with a tiny model behind them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

gradio = pytest.importorskip("gradio")
fastapi = pytest.importorskip("fastapi")

from fastapi.testclient import TestClient  # noqa: E402

import cosyvoice  # noqa: E402
from cosyvoice.engine.pipeline import TTS  # noqa: E402
from cosyvoice.engine.speech import Speech  # noqa: E402
from cosyvoice.webui.app import TABS, build, mount  # noqa: E402
from cosyvoice.webui.context import MAX_CHARACTERS, Page, findings_html, seed_of  # noqa: E402
from cosyvoice.webui.recordings import Finding  # noqa: E402
from cosyvoice.webui.tabs.long_text import status_html  # noqa: E402

PARITY = Path(__file__).parents[1] / "data" / "parity"
Handlers = dict[str, Callable[..., Any]]


@pytest.fixture(scope="module")
def page(tiny_tts: TTS) -> Page:
    return Page(tiny_tts)


@pytest.fixture(scope="module")
def blocks(page: Page) -> Any:
    return build(page)


@pytest.fixture(scope="module")
def handlers(blocks: Any) -> Handlers:
    """By name; names that several tabs use keep the first, which is that of Speak."""
    found: Handlers = {}
    for block_function in blocks.fns.values():
        if block_function.fn is not None:
            found.setdefault(block_function.fn.__name__, block_function.fn)
    return found


@pytest.fixture(scope="module")
def client(tiny_tts: TTS) -> Any:
    with TestClient(mount(fastapi.FastAPI(), tiny_tts, "/ui/")) as client:
        yield client


def test_the_page_is_served_and_asks_nobody_else(client: Any) -> None:
    answer = client.get("/ui/")
    assert answer.status_code == 200
    assert "cosyvoicePlayer" in answer.text
    own = re.findall(r"(?:src|href)=\"(https?://[^\"]+)", answer.text)
    assert all("fonts" not in url for url in own if "testserver" not in url), own
    assert "fonts.googleapis" not in client.get("/ui/theme.css").text


def test_speech_that_nobody_asked_for_is_not_there(client: Any) -> None:
    assert client.get("/ui/speech/guess").status_code == 404


def test_all_tabs_are_there(blocks: Any) -> None:
    labels = [block.label for block in blocks.blocks.values() if block.get_block_name() == "tabitem"]
    assert labels == list(TABS) == ["Speak", "Clone", "Convert", "Instruct", "Long text", "Voices"]


def test_speaking_streams_what_it_gives_in_the_end(page: Page, handlers: Handlers) -> None:
    updates = list(handlers["speak"]("Hello there.", None, "anna", "auto", "3", 1.0, "flac"))
    stream = page.broadcasts.get(updates[0][0])
    assert stream is not None
    *_, (_, speech, playable, download, facts, _) = updates
    assert isinstance(speech, Speech) and speech.report.seed == 3
    heard = np.frombuffer(b"".join(stream.read()), "<i2")
    np.testing.assert_allclose(heard / 32767, speech.samples, atol=1e-4)
    assert soundfile.info(playable).frames == len(speech.samples)
    assert soundfile.info(download.value["path"]).format == "FLAC"
    assert "real-time factor" in facts and ">3<" in facts


def test_a_stream_that_is_stopped_ends_for_its_listener(page: Page, handlers: Handlers) -> None:
    updates = handlers["speak"]("Hello there. How are you?", None, "anna", "auto", "3", 1.0, "wav")
    name = next(updates)[0]
    updates.close()
    stream = page.broadcasts.get(name)
    assert stream is not None and list(stream.read()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", None, "anna", "auto", "", 1.0, "wav"), "at least one word"),
        (("a" * (MAX_CHARACTERS + 1), None, "anna", "auto", "", 1.0, "wav"), "use the tab Long text"),
        (("Hello.", None, "nobody", "auto", "", 1.0, "wav"), "no voice 'nobody'"),
        (("Hello.", None, "anna", "auto", "-1", 1.0, "wav"), "no seed"),
        (("Hello.", None, "anna", "de", "", 1.0, "wav"), "does not read 'de'"),
        (("Hello.", None, "anna", "auto", "", 9.0, "wav"), "out of range"),
    ],
)
def test_what_cannot_be_spoken_is_told_in_a_line(handlers: Handlers, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(gradio.Error) as raised:
        list(handlers["speak"](*arguments))
    assert message in raised.value.message and "\n" not in raised.value.message


def test_a_failure_of_the_program_is_logged_and_not_shown(
    page: Page, handlers: Handlers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(page.tts, "stream", fail)
    with pytest.raises(gradio.Error) as raised:
        list(handlers["speak"]("Hello.", None, "anna", "auto", "", 1.0, "wav"))
    assert "secret" not in raised.value.message
    assert "/secret/path" in caplog.text


def test_a_voice_is_cloned_with_consent_listed_and_deleted(
    page: Page, handlers: Handlers, write_wav: Callable[..., Path], make_speech: Callable[..., np.ndarray]
) -> None:
    path = str(write_wav(make_speech(3.0)))
    given = [path, "please call me back again today", "nina", "female", "warm", True, "Nina, for tests"]
    for index, value, message in ((0, None, "no recording"), (2, "", "cannot be the name"), (2, "anna", "already"),
                                  (5, False, "consent"), (6, " ", "consent")):  # fmt: skip
        wrong = [*given]
        wrong[index] = value
        with pytest.raises(gradio.Error, match=message):
            handlers["keep"](*wrong)
    assert "nina" not in page.tts.voices()
    assert "saved" in handlers["keep"](*given)
    assert page.tts.voice("nina").consent == "Nina, for tests"
    assert soundfile.info(handlers["try_out"](path, "", "", "", "", True, "me")).frames > 0
    pickers = handlers["refreshed_pickers"]("nina", "gone")
    assert [picker.value for picker in pickers] == ["nina", page.tts.voices()[0]]
    with pytest.raises(gradio.Error, match="cannot be undone"):
        handlers["remove"]("nina", False)
    rows, ticked = handlers["remove"]("nina", True)
    assert "nina" not in [row[0] for row in rows] and ticked is False
    assert "nina" not in page.tts.voices()
    with pytest.raises(gradio.Error, match="came with the model"):
        handlers["remove"]("anna", True)


def test_a_recording_is_converted(
    handlers: Handlers, write_wav: Callable[..., Path], make_speech: Callable[..., np.ndarray]
) -> None:
    with pytest.raises(gradio.Error, match="no recording"):
        handlers["convert"](None, "anna", "", 1.0, "wav")
    speech = handlers["convert"](str(write_wav(make_speech(2.0))), "bert", "1", 1.0, "wav")[1]
    assert speech.duration == pytest.approx(2.0, abs=0.3)


def test_a_long_text_is_read_to_its_end(handlers: Handlers) -> None:
    begun = handlers["begin"](
        None, None, "# One\nHello.\n# Two\nBye.", "anna", "auto", "1", 1.0, "wav", "vtt", "one file"
    )
    narration = begun[0]
    assert narration.wait(60).state.value == "finished"
    status, audio, files, *_ = handlers["look"](narration)
    assert "4 of 4 sentences" in status and 'aria-valuenow="100"' in status
    assert [Path(file["path"]).name for file in files.value] == ["reading.vtt", "reading.wav"]
    assert soundfile.info(audio.value["path"]).duration == pytest.approx(narration.progress.seconds, abs=2.5)
    with pytest.raises(gradio.Error, match="paste a text"):
        handlers["begin"](None, None, " ", "anna", "auto", "1", 1.0, "wav", "vtt", "one file")


def test_what_people_write_is_shown_as_text() -> None:
    from cosyvoice.webui.narration import Progress, State

    assert "<script>" not in findings_html([Finding("ok", "<script>")])
    assert "<b>" not in status_html(Progress(State.RUNNING, 0, 1, current="<b>", skipped=("<b>",), error="<b>"))


def test_seeds() -> None:
    assert (seed_of(""), seed_of(None), seed_of(" 12 ")) == (None, None, 12)


def test_files_of_hours_ago_are_removed(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    old = page.new_folder()
    (old / "a.wav").write_bytes(b"x")
    monkeypatch.setattr("cosyvoice.webui.context.KEPT_SECONDS", -1)
    fresh = page.new_folder()
    assert not old.exists() and fresh.exists()


def test_a_model_that_follows_instructions_is_told_how_to_speak() -> None:
    tts = cosyvoice.load(PARITY / "v3" / "model")
    blocks = build(Page(tts))
    assert not any(getattr(block, "elem_id", None) == "instruct-none" for block in blocks.blocks.values())
    _, instruct = (function.fn for function in blocks.fns.values() if getattr(function.fn, "__name__", "") == "speak")
    voice = tts.clone(PARITY / "wav" / "prompt_24k.wav", name="prompt")
    given = ("Hello there.", "请非常开心地说一句话。", voice, "en", "3", 1.0, "wav")
    *_, (_, speech, *_) = instruct(*given)
    assert isinstance(speech, Speech) and len(speech.samples)
    expected = tts.stream(given[0], voice, seed=3, instruct=given[1])
    np.testing.assert_array_equal(speech.samples, np.concatenate([chunk.samples for chunk in expected]))
    with pytest.raises(gradio.Error, match="no instruction"):
        list(instruct("Hello.", " ", voice, "auto", "3", 1.0, "wav"))
