"""Doors on ports of their own, opened and closed with the application: gRPC and Wyoming."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from cosyvoice.errors import MissingDependencyError
from cosyvoice.server.addresses import is_loopback
from cosyvoice.server.service import SpeechService
from cosyvoice.server.settings import Settings
from cosyvoice.server.wyoming import server as wyoming
from cosyvoice.server.wyoming.announcement import announced, check_announceable

LOOPBACK = "127.0.0.1"
_log = logging.getLogger("cosyvoice.server")


@dataclass(frozen=True)
class Ports:
    """Where is listened; None where it is not."""

    grpc: int | None = None
    wyoming: int | None = None


@contextlib.asynccontextmanager
async def listening(service: SpeechService) -> AsyncIterator[Ports]:
    """Listen on the ports that the settings name, for the time of the context.

    Raises `ConfigError` where a port is taken or cannot be announced, `MissingDependencyError` where gRPC or zeroconf
    are not installed.
    """
    settings = service.settings
    ports: dict[str, int] = {}
    async with contextlib.AsyncExitStack() as stack:
        if settings.grpc_port is not None:
            try:
                from cosyvoice.server.grpc import server as grpc
            except ImportError:
                raise MissingDependencyError(
                    "--grpc-port needs gRPC, which is not installed; install it with: pip install 'cosyvoice[grpc]'"
                ) from None
            grpc_door = await grpc.listen(service, settings.host, settings.grpc_port)
            stack.push_async_callback(grpc_door.close)
            ports["grpc"] = grpc_door.port
        if settings.wyoming_port is not None:
            host = wyoming_host(settings)
            if settings.wyoming_zeroconf is not None:
                check_announceable(host)
            wyoming_door = await wyoming.listen(service, host, settings.wyoming_port)
            stack.push_async_callback(wyoming_door.close)
            ports["wyoming"] = wyoming_door.port
            if settings.wyoming_zeroconf is not None:
                await stack.enter_async_context(announced(settings.wyoming_zeroconf, host, wyoming_door.port))
        yield Ports(**ports)


def wyoming_host(settings: Settings) -> str:
    """The address for Wyoming, whose clients have no key: that of the server where it may be open to everybody."""
    if is_loopback(settings.host) or settings.allow_public:
        return settings.host
    _log.warning("Wyoming asks for no key, so it listens on %s only; --allow-public opens it", LOOPBACK)
    return LOOPBACK
