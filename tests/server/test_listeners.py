from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cosyvoice.errors import ConfigError
from cosyvoice.server.listeners import LOOPBACK, listening, wyoming_host
from cosyvoice.server.settings import load_settings

pytestmark = pytest.mark.anyio


async def test_ports_are_open_for_the_time_of_the_context(make_service: Any) -> None:
    async with listening(make_service(grpc_port=0, wyoming_port=0).service) as ports:
        assert ports.grpc and ports.wyoming
        for port in (ports.grpc, ports.wyoming):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.close()
    for port in (ports.grpc, ports.wyoming):
        with pytest.raises(OSError):
            await asyncio.open_connection(LOOPBACK, port)


async def test_nothing_is_opened_that_is_not_asked_for(make_service: Any) -> None:
    async with listening(make_service().service) as ports:
        assert ports.grpc is None and ports.wyoming is None


@pytest.mark.parametrize(
    ("flags", "host"),
    [
        ({}, LOOPBACK),
        ({"host": "::1"}, "::1"),
        ({"host": "0.0.0.0", "api_keys": ["secret"]}, LOOPBACK),
        ({"host": "0.0.0.0", "allow_public": True}, "0.0.0.0"),
    ],
)
def test_wyoming_is_open_to_others_only_where_that_is_said(flags: dict[str, Any], host: str) -> None:
    assert wyoming_host(load_settings(None, flags)) == host


async def test_what_nobody_can_reach_is_not_announced(make_service: Any) -> None:
    service = make_service(wyoming_port=0, wyoming_zeroconf="Voices").service
    with pytest.raises(ConfigError, match="--allow-public"):
        async with listening(service):
            pass
