"""The Wyoming port made known on the local network, so that Home Assistant finds it by itself.

Home Assistant looks for services of the type `_wyoming._tcp.local.` (DNS-SD over multicast DNS, RFC 6763 and RFC 6762)
and asks each for its `info`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

from cosyvoice.errors import ConfigError, MissingDependencyError
from cosyvoice.server.addresses import is_loopback

SERVICE_TYPE = "_wyoming._tcp.local."
_log = logging.getLogger("cosyvoice.server.wyoming")


def check_announceable(host: str) -> None:
    """Raise `ConfigError` where nobody could come: `host` is of this machine alone."""
    if is_loopback(host):
        raise ConfigError(
            f"Wyoming listens on {host}, which other machines cannot reach, so there is nothing to announce; "
            "give --host and --allow-public, or leave --wyoming-zeroconf out"
        )


@contextlib.asynccontextmanager
async def announced(name: str, host: str, port: int, interfaces: Sequence[str] | None = None) -> AsyncIterator[None]:
    """Announce `name` at `host` and `port` for the time of the context; another one of the name gets a number.

    Args:
        name: as people see it.
        host: that is listened on; all addresses of this machine where it is unspecified (0.0.0.0 or ::).
        port: that is listened on.
        interfaces: addresses of the interfaces on which it is told; None: all.

    Raises `MissingDependencyError` where zeroconf is not installed, `ConfigError` where the network takes no multicast.
    """
    try:
        from zeroconf import ServiceInfo
        from zeroconf.asyncio import AsyncZeroconf
    except ImportError:
        raise MissingDependencyError(
            "--wyoming-zeroconf needs zeroconf, which is not installed; install it with: "
            "pip install 'cosyvoice[zeroconf]'"
        ) from None
    machine = socket.gethostname().split(".")[0] or "cosyvoice"
    info = ServiceInfo(
        SERVICE_TYPE,
        f"{name}.{SERVICE_TYPE}",
        parsed_addresses=own_addresses(host),
        port=port,
        server=f"{machine}-cosyvoice.local.",
    )
    options: dict[str, Any] = {} if interfaces is None else {"interfaces": list(interfaces)}
    try:
        told = AsyncZeroconf(**options)
        await told.async_register_service(info, allow_name_change=True)
    except OSError as error:
        raise ConfigError(
            f"Wyoming cannot be announced ({error.strerror or error}); leave --wyoming-zeroconf out"
        ) from None
    _log.info("announced", extra={"service": info.name, "port": port})
    try:
        yield
    finally:
        await told.async_unregister_service(info)
        await told.async_close()


def own_addresses(host: str) -> list[str]:
    """Addresses under which others reach what listens on `host`."""
    family, _, _, _, place = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    address = ipaddress.ip_address(place[0])
    if not address.is_unspecified:
        return [str(address)]
    found = set()
    with contextlib.suppress(OSError):
        found |= {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None, family)}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: the system only chooses the interface by which others are reached.
        probe.connect(("192.0.2.1", 9))
        found.add(probe.getsockname()[0])
    return sorted(found - {"127.0.0.1", "::1", "127.0.1.1", "0.0.0.0"}) or ["127.0.0.1"]
