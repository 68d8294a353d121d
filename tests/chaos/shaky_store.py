"""An object store that fails: a proxy before a real S3 server that refuses, cuts and forgets to answer."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHARE = 0.05
"""Of requests that fail, a third each: 503; the connection dies before the request is done; and after."""


class ShakyStore:
    """A context manager that serves in a thread; `port` is where, `faults` what went wrong.

    `pause(seconds)` lets every connection fail for a while, as a server does that is started again.
    """

    def __init__(self, behind_port: int, seed: int) -> None:
        rng, lock, outer = random.Random(seed), threading.Lock(), self
        self.faults: Counter[str] = Counter()
        self._down_until_s = 0.0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    fault = rng.choice(["503", "before", "after"]) if rng.random() < SHARE else ""
                    if time.monotonic() < outer._down_until_s:
                        fault = "down"
                    outer.faults[fault or "none"] += 1
                if fault in {"before", "down"}:
                    self.close_connection = True
                    return
                if fault == "503":
                    self.reply(503, [], b"<Error><Code>SlowDown</Code></Error>")
                    return
                server = http.client.HTTPConnection("127.0.0.1", behind_port, timeout=60)
                server.request(self.command, self.path, body, dict(self.headers))
                found = server.getresponse()
                data = found.read()
                server.close()
                if fault == "after":
                    self.close_connection = True
                    return
                self.reply(found.status, found.getheaders(), data)

            def reply(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
                own = {"transfer-encoding", "connection", "date", "server"}
                length = [value for name, value in headers if name.lower() == "content-length"]
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in own | {"content-length"}:
                        self.send_header(name, value)
                is_head = self.command == "HEAD"
                self.send_header("Content-Length", length[0] if is_head and length else str(len(data)))
                self.end_headers()
                if not is_head:
                    with suppress(OSError):
                        self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Silence."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def pause(self, seconds: float) -> None:
        self._down_until_s = time.monotonic() + seconds

    def __enter__(self) -> ShakyStore:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
