"""Padding of layouts into tensors."""

from __future__ import annotations

from cosyvoice.llm.layout import Kind, SpecialTokens, unistream
from cosyvoice.llm.packing import pack

SPECIAL = SpecialTokens(sos=100, eos=101, task=102, fill=103, stop_ids=range(100, 110))


def test_short_items_are_padded_on_the_right() -> None:
    batch = pack([unistream([1], [7], SPECIAL), unistream([2, 3], [8, 9], SPECIAL)])
    t, s, p, special = Kind.TEXT, Kind.SPEECH, Kind.PAD, Kind.SPECIAL
    assert batch.lengths.tolist() == [4, 6]
    assert batch.kinds.tolist() == [[special, t, special, s, p, p], [special, t, t, special, s, s]]
    assert batch.ids.tolist() == [[100, 1, 102, 7, 0, 0], [100, 2, 3, 102, 8, 9]]
    assert batch.targets.tolist() == [[-1, -1, 7, 101, -1, -1], [-1, -1, -1, 8, 9, 101]]
