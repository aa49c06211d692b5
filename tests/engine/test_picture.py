from __future__ import annotations

import io

import numpy as np
import pytest

from cosyvoice.engine.picture import draw_speech

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("samples", [np.zeros(24000), np.zeros(10), np.sin(np.arange(48000) / 5)])
def test_a_picture_has_the_size_asked_for(samples: np.ndarray) -> None:
    image = Image.open(io.BytesIO(draw_speech(samples.astype(np.float32), 24000, size=(6.0, 3.0))))
    assert image.size == (600, 300)


def test_a_transparent_ground_shows_the_page_through() -> None:
    samples = np.sin(np.arange(48000) / 5).astype(np.float32)
    image = Image.open(io.BytesIO(draw_speech(samples, 24000, size=(6.0, 3.0), transparent=True))).convert("RGBA")
    assert image.getpixel((2, 2))[3] == 0
    opaque = Image.open(io.BytesIO(draw_speech(samples, 24000, size=(6.0, 3.0)))).convert("RGBA")
    assert opaque.getpixel((2, 2)) == (255, 255, 255, 255)
