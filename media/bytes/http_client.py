"""One http request with checked addresses, few redirects, bounded time and retries.

Over urllib3, to an address that was checked, with the right Host header and TLS name. Nothing is taken from
the environment: no proxy, no netrc. User and password come only from the address itself and go only to its
own origin.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote, urljoin

import urllib3
from urllib3.exceptions import (
    HTTPError,
    IncompleteRead,
    InvalidHeader,
    LocationParseError,
    NewConnectionError,
    ProtocolError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError
from urllib3.util import Timeout, Url, parse_url

from media.bytes.http_rules import HttpLimits, checked_addresses
from media.errors import MediaError

T = TypeVar("T")
Response = urllib3.BaseHTTPResponse
_PORTS = {"http": 80, "https": 443}
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_CHUNK_BYTES = 256 << 10


class CutError(Exception):
    """An answer ended early; worth another attempt."""


def body(response: Response, max_bytes: int, deadline: float, name: str) -> Callable[[], bytes]:
    """A function that gives the next piece of the body, at its end nothing, and keeps to the limits.

    Args:
        max_bytes: more is `too_large`.
        deadline: `time.monotonic()` after which it is `timeout`.
    """
    got = 0

    def next_piece() -> bytes:
        nonlocal got
        if time.monotonic() > deadline:
            raise MediaError(
                "timeout",
                f"{name} sends too slowly. Try later, or raise RUSHES_HTTP_REQUEST_S or "
                "RUSHES_HTTP_DOWNLOAD_S.",
            )
        piece = response.read1(_CHUNK_BYTES, decode_content=False)  # type: ignore[attr-defined]
        got += len(piece)
        if got > max_bytes:
            raise MediaError(
                "too_large",
                f"{name} sends more than {max_bytes} bytes. Raise RUSHES_HTTP_MAX_DOWNLOAD_BYTES if you "
                "mean it.",
            )
        declared = response.headers.get("Content-Length", "")
        if not piece and declared.isdigit() and got != int(declared):
            raise CutError(f"{got} of {declared} bytes came")
        return piece

    return next_piece


class HttpClient:
    """Requests for one address. Connections are kept between them."""

    def __init__(self, url: str, limits: HttpLimits) -> None:
        self.url, self.limits = url, limits
        self._pools: dict[tuple, urllib3.HTTPConnectionPool] = {}
        self._origin = self._origin_of(self._parsed(url))

    def get(self, headers: dict[str, str], consume: Callable[[Response], T]) -> T:
        """Send a GET and give its answer to `consume`, again where either fails in a way that may pass.

        Raises:
            MediaError: with what went wrong the last time, or at once where another attempt would not help.
        """
        cause, reason = "", "unreadable"
        for attempt in range(self.limits.max_attempts):
            wait_s = min(self.limits.backoff_s * 2**attempt, self.limits.max_wait_s)
            response: Response | None = None
            try:
                response = self._follow(headers)
                if response.status not in _AGAIN:
                    return consume(response)
                cause, reason = f"the server answers {response.status}", "http_status"
                wait_s = self._asked_wait_s(response, wait_s)
            except SSLError as error:
                raise MediaError(
                    "tls", f"{self.url}: {error}. Check the certificate of the server."
                ) from error
            except NewConnectionError as error:
                cause, reason = f"nobody answers there ({error})", "unreachable"
            except Urllib3TimeoutError as error:
                cause, reason = f"no answer in time ({type(error).__name__})", "timeout"
            except (ProtocolError, IncompleteRead, CutError, OSError) as error:
                cause, reason = f"the connection broke ({error})", "cut"
            except HTTPError as error:
                raise MediaError("unreadable", f"{self.url}: {error}") from error
            finally:
                if response is not None:
                    response.close()  # an answer read to its end has given its connection back already
            if attempt + 1 < self.limits.max_attempts:
                time.sleep(wait_s)
        raise MediaError(reason, f"{self.url}: {cause}, {self.limits.max_attempts} times. Try later.")

    def _asked_wait_s(self, response: Response, wait_s: float) -> float:
        try:
            asked = urllib3.Retry().parse_retry_after(response.headers.get("Retry-After", "").strip())
        except (InvalidHeader, ValueError, OverflowError):
            return wait_s
        return min(max(asked, 0.0), self.limits.max_wait_s)

    def _parsed(self, url: str) -> Url:
        try:
            parsed = parse_url(url)
        except LocationParseError as error:
            raise MediaError("address", f"{self.url} is no address ({error})") from error
        if parsed.scheme not in _PORTS or not parsed.host:
            raise MediaError(
                "redirect" if url != self.url else "address",
                f"{self.url} leads to {url}: only http and https are read.",
            )
        return parsed

    @staticmethod
    def _origin_of(url: Url) -> tuple[str, str, int]:
        scheme = str(url.scheme)
        return scheme, str(url.host), url.port or _PORTS[scheme]

    def _follow(self, headers: dict[str, str]) -> Response:
        """The answer after redirects; each target is checked like the first."""
        url = self.url
        for _ in range(self.limits.max_redirects + 1):
            response = self._send(self._parsed(url), headers)
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or not target:
                return response
            response.close()
            try:
                url = urljoin(url, target)
            except ValueError as error:
                raise MediaError("redirect", f"{url} redirects to no address ({target!r})") from error
        raise MediaError(
            "redirect",
            f"{self.url} redirects more than {self.limits.max_redirects} times. Give the final address.",
        )

    def _send(self, url: Url, headers: dict[str, str]) -> Response:
        """Connect to the first checked address that answers."""
        scheme, host, port = self._origin_of(url)
        named = host if port == _PORTS[scheme] else f"{host}:{port}"
        headers = {"Host": named, "Accept-Encoding": "identity", "User-Agent": "rushes"} | headers
        if self._origin_of(url) == self._origin and (auth := parse_url(self.url).auth):
            headers["Authorization"] = "Basic " + b64encode(unquote(auth).encode()).decode()
        plain_host = host.strip("[]").rstrip(".")
        if pool := self._pools.get((scheme, host, port)):
            return self._urlopen(pool, url, headers)
        last: NewConnectionError | Urllib3TimeoutError | None = None
        for address in checked_addresses(plain_host, port, self.limits, self.url):
            timeout = Timeout(connect=self.limits.connect_s, read=self.limits.read_s)
            if scheme == "https":
                pool = urllib3.HTTPSConnectionPool(
                    address, port, timeout=timeout, server_hostname=plain_host, assert_hostname=plain_host
                )
            else:
                pool = urllib3.HTTPConnectionPool(address, port, timeout=timeout)
            try:
                response = self._urlopen(pool, url, headers)
            except (NewConnectionError, Urllib3TimeoutError) as error:
                pool.close()
                last = error
                continue
            self._pools[(scheme, host, port)] = pool
            return response
        assert last is not None
        raise last

    @staticmethod
    def _urlopen(pool: urllib3.HTTPConnectionPool, url: Url, headers: dict[str, str]) -> Response:
        return pool.urlopen(
            "GET", url.request_uri, headers=headers, retries=False, redirect=False, preload_content=False
        )

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
