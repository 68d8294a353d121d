"""Clients of HTTP whose answers have a size that a caption may have: who answers is not trusted."""

from __future__ import annotations

import time
from typing import Any

MOST_BYTES = 2 << 20
"""Of one answer, unpacked: captions take thousands of bytes."""
_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")


class TooLargeError(ValueError):
    """An answer that goes on beyond `MOST_BYTES`."""


def bounded_client() -> Any:
    """A client for `openai.AsyncOpenAI` that reads no answer beyond `MOST_BYTES`.

    It raises `TooLargeError` then, which versions of openai may give as the cause of one of their own.
    """
    import openai

    class Bounded(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, *, stream: bool = False, **more: Any) -> Any:
            response: Any = await super().send(request, stream=True, **more)
            if stream:
                return response
            body = bytearray()
            try:
                async for piece in response.aiter_bytes():
                    _add(body, piece)
            finally:
                await response.aclose()
            return _whole(response, body)

    return Bounded()


def waiting_client(limit_s: float) -> Any:
    """The same for `openai.OpenAI`, which waits for each answer: so long in all, and not for each read."""
    import httpx
    import openai

    class Bounded(openai.DefaultHttpxClient):
        def send(self, request: Any, *, stream: bool = False, **more: Any) -> Any:
            response: Any = super().send(request, stream=True, **more)
            if stream:
                return response
            body, until_s = bytearray(), time.monotonic() + limit_s
            try:
                for piece in response.iter_bytes():
                    _add(body, piece)
                    if time.monotonic() > until_s:
                        raise httpx.ReadTimeout(f"no whole answer in {limit_s:g} s", request=request)
            finally:
                response.close()
            return _whole(response, body)

    return Bounded()


def _add(body: bytearray, piece: bytes) -> None:
    body += piece
    if len(body) > MOST_BYTES:
        raise TooLargeError(f"an answer of more than {MOST_BYTES >> 20} MiB")


def _whole(response: Any, body: bytearray) -> Any:
    """The response with its body read."""
    headers = [pair for pair in response.headers.multi_items() if pair[0].lower() not in _OF_THE_BODY]
    return type(response)(
        response.status_code, headers=headers, content=bytes(body), request=response.request
    )
