"""Addresses of this host: what a rail of the socket Link may be named by."""
from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

from engine.errors import ConfigError

SIOCGIFADDR, SIOCGIFFLAGS, UP = 0x8915, 0x8913, 1


def interfaces() -> dict[str, str]:
    """IPv4 address of each interface that is up, by name, in the order of the kernel."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            asked = struct.pack("256s", name.encode()[:15])
            with suppress(OSError):
                flags = struct.unpack_from("<H", fcntl.ioctl(probe, SIOCGIFFLAGS, asked), 16)[0]
                if flags & UP:
                    found[name] = socket.inet_ntoa(fcntl.ioctl(probe, SIOCGIFADDR, asked)[20:24])
    return found


def pick(rails: Sequence[str]) -> list[str]:
    """The address of this host on each rail. A rail is an interface (`ib0`), a network (`10.1.0.0/16`) or `lo`; none given:
    the first interface that is up and no loopback, else the loopback."""
    here = interfaces()
    if not rails:
        return [next((a for a in here.values() if not ipaddress.ip_address(a).is_loopback), "127.0.0.1")]
    return [_address(name, here) for name in rails]


def _address(name: str, here: dict[str, str]) -> str:
    if name in here:
        return here[name]
    with suppress(ValueError):
        network = ipaddress.ip_network(name, strict=False)
        for address in here.values():
            if ipaddress.ip_address(address) in network:
                return address
    known = ", ".join(f"{one} {address}" for one, address in here.items()) or "none"
    raise ConfigError(f"transport.rails: host {socket.gethostname()} has no interface or address {name!r}; it has {known}",
                      fix="name an interface, or a network as 10.1.0.0/16, that every host has")
