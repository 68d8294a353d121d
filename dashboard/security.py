"""Who is answered, and what a page may do: Host, a token, a policy with nothing inline or foreign."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """Who is answered.

    Attributes:
        hosts: names and addresses by which this server may be called besides those of loopback.
        token: what has to be shown, in the address as `?token=`, from then on in a cookie; empty: nothing.
    """

    hosts: tuple[str, ...] = ()
    token: str = ""

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server: a page elsewhere whose name leads here does not."""
        end = host.index("]") + 1 if host.startswith("[") and "]" in host else host.find(":")
        name = (host[:end] if end > 0 else host).strip("[]")
        if name == "localhost" or (name and name in self.hosts):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    @property
    def cookie(self) -> str:
        """Of its own for each token: cookies are shared by all ports of a host."""
        return f"rushes-{hashlib.sha256(self.token.encode()).hexdigest()[:12]}"

    def admits(self, shown: str) -> bool:
        """Whether a token is the right one."""
        return hmac.compare_digest(shown.encode(), self.token.encode())


def guard(app: FastAPI, access: Access) -> None:
    """Check every request, and send the policy with every answer."""

    @app.middleware("http")
    async def check(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        response = _refusal(request, access) or await go_on(request)
        response.headers.update(_HEADERS)
        return response


def _refusal(request: Request, access: Access) -> Response | None:
    """The answer to a request that goes no further."""
    if not access.knows(request.headers.get("host", "")):
        return PlainTextResponse("this address is not served here", 421)
    if request.method not in ("GET", "HEAD") and not _is_from_here(request):
        return PlainTextResponse("a page elsewhere may not do this", 403)
    if not access.token:
        return None
    shown = request.query_params.get("token")
    if shown is not None and access.admits(shown):
        rest = request.url.remove_query_params("token").query
        place = "/" + request.url.path.lstrip("/\\")  # of this server, whatever it looks like
        response = RedirectResponse(place + (f"?{rest}" if rest else ""), 303)
        response.set_cookie(access.cookie, access.token, httponly=True, samesite="strict")
        return response
    if not access.admits(request.cookies.get(access.cookie, "")):
        return PlainTextResponse("open the address with its token, as `rushes dashboard` printed it", 401)
    return None


def _is_from_here(request: Request) -> bool:
    """Whether a page of this server sent a request."""
    origin = request.headers.get("origin")
    is_same = request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    return is_same and (origin is None or origin.partition("://")[2] == request.headers.get("host"))
