"""Who is answered, and what a page may do: Host, a token, a policy with nothing inline or foreign."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
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
        told = _HOST.fullmatch(host)
        name = (told["v6"] or told["name"]).lower() if told else ""
        if name == "localhost" or (name and name in {own.lower() for own in self.hosts}):
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


_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[^:\[\]]*))(?::\d*)?")
"""RFC 9110, section 7.2."""


class Guard:
    """Checks every request, and sends the policy with every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = _refusal(Request(scope), self._access) or self._app
        await answer(scope, receive, with_policy)


_MOST_QUERY = 16_384
"""A page repeats what was asked in each of its links."""
_COSTLY = ("/sql", "/clips/export")
"""What a page elsewhere could have made to no end of its own but ours."""


def _refusal(request: Request, access: Access) -> Response | None:
    """The answer to a request that goes no further."""
    if not access.knows(request.headers.get("host", "")):
        return PlainTextResponse("this address is not served here", 421)
    return _of_its_kind(request) or _of_its_token(request, access)


def _of_its_kind(request: Request) -> Response | None:
    """The answer to a request that nobody may make."""
    if len(request.url.query) > _MOST_QUERY:
        return PlainTextResponse(f"an address may ask for no more than {_MOST_QUERY} letters", 414)
    is_foreign = request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    is_costly = is_foreign and request.url.path.startswith(_COSTLY)
    if is_costly or (request.method not in ("GET", "HEAD") and not _is_from_here(request)):
        return PlainTextResponse("a page elsewhere may not do this", 403)
    return None


def _of_its_token(request: Request, access: Access) -> Response | None:
    """The answer to a request that shows no token, or one that is to be kept in a cookie."""
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
