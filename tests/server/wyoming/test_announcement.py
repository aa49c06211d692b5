from __future__ import annotations

import sys

import pytest

from cosyvoice.errors import MissingDependencyError
from cosyvoice.server.wyoming.announcement import SERVICE_TYPE, announced, own_addresses

pytestmark = pytest.mark.anyio


async def test_the_port_is_found_by_its_type_as_long_as_it_is_open() -> None:
    pytest.importorskip("zeroconf")
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    async def ask(milliseconds: int) -> AsyncServiceInfo | None:
        info = AsyncServiceInfo(SERVICE_TYPE, f"Voices.{SERVICE_TYPE}")
        return info if await info.async_request(looking.zeroconf, milliseconds) else None

    looking = AsyncZeroconf(interfaces=["127.0.0.1"])
    async with announced("Voices", "127.0.0.1", 10200, interfaces=["127.0.0.1"]):
        found = await ask(3000)
    assert found is not None and (found.port, found.parsed_addresses()) == (10200, ["127.0.0.1"])
    await looking.async_close()
    looking = AsyncZeroconf(interfaces=["127.0.0.1"])
    assert await ask(200) is None
    await looking.async_close()


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(MissingDependencyError, match=r"cosyvoice\[zeroconf\]"):
        async with announced("Voices", "127.0.0.1", 1):
            pass


def test_addresses_are_those_that_others_reach() -> None:
    assert own_addresses("192.0.2.7") == ["192.0.2.7"]
    assert "0.0.0.0" not in own_addresses("0.0.0.0") != []
