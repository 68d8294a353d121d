"""A web server on loopback that serves a folder, and misbehaves where its address asks it to."""

from __future__ import annotations

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class Handler(BaseHTTPRequestHandler):
    """`/MODE/NAME`: file NAME of the folder, served in a manner. Requests are counted by path, their headers
    kept.
    """

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def _reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:  # noqa: PLR0911
        mode, _, name = self.path.split("?")[0].lstrip("/").partition("/")
        seen = self.server.seen
        seen.append((self.path, dict(self.headers)))
        self.server.ports.append(self.client_address[1])
        count = sum(path == self.path for path, _ in seen)
        if mode == "to":  # /to/STATUS: redirect to ?target
            return self._reply(302, Location=unquote(self.path.partition("?")[2]))
        if mode == "loop":
            return self._reply(302, Location=f"/loop/{count}")
        if mode == "status":
            return self._reply(int(name.split("/")[0]))
        if mode in {"busy", "busy503"} and count <= 2:
            return self._reply(429 if mode == "busy" else 503, Retry_After="0")
        if mode == "patience" and count <= 1:
            return self._reply(429, Retry_After="9999")
        data = (self.server.folder / unquote(name)).read_bytes()
        if mode == "changes" and count >= 2:
            data = data[::-1]
        tag = f'"{hash(data) & 0xFFFFFF:x}"' if mode != "untagged" else ""
        headers = {"ETag": tag} if tag else {}
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if mode == "slow":
            self.send_response(200)
            self.end_headers()
            for index in range(200):
                self.wfile.write(data[index : index + 1])
                time.sleep(0.05)
            return None
        if mode == "huge":
            return self._reply(206, b"x", Content_Range=f"bytes 0-0/{1 << 50}")
        if mode == "endless":
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            for _ in range(200):
                self.wfile.write(bytes(1 << 16))
            return None
        is_same = self.headers.get("If-Range", tag) == tag
        if mode in {"plain", "endless"} or not match or not is_same:
            return self._reply(200, data, **headers)
        first, last = int(match[1]), min(int(match[2]), len(data) - 1)
        if first >= len(data):
            return self._reply(416, Content_Range=f"bytes */{len(data)}")
        part = data[first : last + 1]
        if mode == "wrong" and first:
            first, last = first + 1, last + 1
        if mode in {"cut", "cut_always"} and (count % 2 == 1 or mode == "cut_always"):
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            return None
        return self._reply(206, part, Content_Range=f"bytes {first}-{last}/{len(data)}", **headers)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.seen: list[tuple[str, dict]] = []  # path and headers of each request
        self.ports: list[int] = []  # the port each came from
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def handle_error(self, *_: object) -> None:
        pass  # clients hang up where a limit says so

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join(5)
