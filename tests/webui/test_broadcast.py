from __future__ import annotations

import threading

import numpy as np

from cosyvoice.webui.broadcast import Broadcast, Broadcasts


def test_every_reader_gets_all_of_it_whenever_it_comes() -> None:
    stream = Broadcast(24000)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(b"".join(stream.read())))
    stream.push(np.array([0.0, 0.5], np.float32))
    reader.start()
    stream.push(np.array([2.0, -2.0], np.float32))
    stream.close()
    reader.join(5)
    assert not reader.is_alive()
    samples = np.frombuffer(got[0], "<i2")
    assert samples.tolist() == [0, 16384, 32767, -32767]
    assert b"".join(stream.read()) == got[0]


def test_names_cannot_be_guessed_and_old_streams_are_forgotten() -> None:
    streams = Broadcasts(kept=2)
    names = [streams.open(24000)[0] for _ in range(3)]
    assert len(set(names)) == 3 and min(map(len, names)) >= 24
    assert streams.get(names[0]) is None
    assert streams.get(names[2]) is not None
    assert streams.get("") is None
