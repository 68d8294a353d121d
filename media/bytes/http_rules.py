"""What a download over http may do: limits of time and size, and the addresses it may connect to.

Private, loopback, link-local, multicast and reserved addresses are refused, also inside v6 addresses that
carry a v4 one, unless allowed by name. Names are resolved here, once a connection, and the connection goes to
the address that was checked.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields

from manifests.errors import UsageError
from media.errors import MediaError

_EVERYWHERE = ("0.0.0.0/0", "::/0")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """Limits of reading over http.

    Each can be set in the environment as RUSHES_HTTP_<FIELD>, for instance RUSHES_HTTP_READ_S=60.
    """

    connect_s: float = 10.0
    """Seconds until a connection must stand."""
    read_s: float = 30.0
    """Seconds without a byte after which a read has failed."""
    request_s: float = 300.0
    """Seconds that one ranged answer may take in all."""
    download_s: float = 3600.0
    """Seconds that a whole download may take, where a server gives no ranges."""
    max_bytes: int = 64 << 30
    """Size of a file read by ranges, at most."""
    max_download_bytes: int = 4 << 30
    """Size of a file that must be downloaded whole to a temporary file, at most."""
    max_redirects: int = 5
    """Redirects followed for one request."""
    max_attempts: int = 5
    """Attempts at one request, where the failure may pass: 429, 5xx, a broken connection."""
    backoff_s: float = 0.5
    """First wait before another attempt; doubled each time."""
    max_wait_s: float = 30.0
    """Longest wait before another attempt, whatever Retry-After asks for."""
    allow_private: tuple[str, ...] = ()
    """Networks that may be connected to though they are not public, as 10.1.0.0/16. In the environment:
    separated by commas, or 1 for all."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> HttpLimits:
        """The limits with what the environment sets.

        Raises:
            UsageError: a value is no number, or no network.
        """
        variables = os.environ if environment is None else environment
        values: dict = {}
        for item in fields(cls):
            name = f"RUSHES_HTTP_{item.name.upper()}"
            text = variables.get(name, "").strip()
            if not text:
                continue
            try:
                if item.name != "allow_private":
                    values[item.name] = number = float(text) if item.type == "float" else int(text)
                    if not number >= (1 if item.name == "max_attempts" else 0):
                        raise ValueError("too small")
                elif text != "0":
                    networks = _EVERYWHERE if text == "1" else [part.strip() for part in text.split(",")]
                    values[item.name] = tuple(str(ipaddress.ip_network(network)) for network in networks)
            except ValueError as error:
                raise UsageError(
                    name,
                    f"{text!r} is not a value for it ({error})",
                    "Unset it or give a number; networks as 10.1.0.0/16.",
                ) from error
        return cls(**values)


def _judged(address: Address) -> list[Address]:
    """The addresses to check: of an IPv6 address that carries an IPv4 one, the one inside too."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    last = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped or address in _NAT64:
        return [last]
    inside = [address.sixtofour, *(address.teredo or ()), last if int(address) >> 32 == 0 else None]
    return [address, *(item for item in inside if item is not None)]


def is_public(address: Address) -> bool:
    """Whether everyone on the internet would reach the same machine by this address."""

    def is_special(item: Address) -> bool:
        return (
            item.is_private
            or item.is_loopback
            or item.is_link_local
            or item.is_multicast
            or item.is_reserved
            or item.is_unspecified
            or not item.is_global
            or (isinstance(item, ipaddress.IPv6Address) and item.is_site_local)
        )

    return not any(is_special(item) for item in _judged(address))


def _is_allowed(address: Address, limits: HttpLimits) -> bool:
    if is_public(address):
        return True
    plain = (
        address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped else address
    )
    networks = [ipaddress.ip_network(text) for text in limits.allow_private]
    return any(plain in network for network in networks if network.version == plain.version)


def checked_addresses(host: str, port: int, limits: HttpLimits, name: str) -> list[str]:
    """Addresses of `host` that may be connected to, in the resolver's order.

    Args:
        name: the address asked for, for messages.

    Raises:
        MediaError: the name has no address (no_host), or none that is allowed (private_address).
    """
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise MediaError(
            "no_host",
            f"{name}: {host} cannot be resolved ({error}). Check the name, and that this machine has DNS.",
        ) from error
    found = [str(info[4][0]).split("%", 1)[0] for info in infos]
    allowed = [text for text in dict.fromkeys(found) if _is_allowed(ipaddress.ip_address(text), limits)]
    if not allowed:
        raise MediaError(
            "private_address",
            f"{name}: {host}{_at(host, found)} is not a public address. "
            "If you mean to read from there, set RUSHES_HTTP_ALLOW_PRIVATE to its network.",
        )
    return allowed


def _at(host: str, addresses: list[str]) -> str:
    """Where a host is, in words; nothing where it is named by its address."""
    told = ", ".join(dict.fromkeys(addresses))
    return "" if told == host.strip("[]") else f" is at {told}, which"
