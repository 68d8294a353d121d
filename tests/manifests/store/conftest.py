"""A store that runs beside the tests, and does badly what its class says."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

import pytest

_ITEM = (
    "<Contents><Key>{}</Key><Size>1</Size><LastModified>2026-11-30T08:00:00.000Z</LastModified></Contents>"
)


class Store(BaseHTTPRequestHandler):
    """As much of S3 as objects need; what it does badly is told by its class."""

    heeds, matches, deletes, late_reads, lost_answers, cut_lists = True, True, True, 0, 0, 0
    objects: dict[str, bytes]
    asked: list[tuple[str, str, str]]

    def do_PUT(self):
        path, cls = self.path.partition("?")[0], type(self)
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if cls.heeds and self.headers.get("If-None-Match") and path in cls.objects:
            return self.answer(412)
        own = f'"{hashlib.md5(cls.objects.get(path, b"")).hexdigest()}"'
        if cls.matches and self.headers.get("If-Match", own) != own:
            return self.answer(412)
        cls.objects[path] = data
        if cls.lost_answers:
            cls.lost_answers -= 1
            return self.answer(503)
        self.answer(200, data)

    def do_GET(self):
        (path, _, query), cls = self.path.partition("?"), type(self)
        if asked := dict(parse_qsl(query)):  # a list
            if cls.cut_lists:
                cls.cut_lists -= 1
                return self.answer(200, b"<ListBucketResult>", True, length=1000)
            below = [key[3:] for key in cls.objects if key.startswith(f"/b/{asked.get('prefix', '')}")]
            items = "".join(map(_ITEM.format, below))
            return self.answer(200, f"<ListBucketResult>{items}</ListBucketResult>".encode(), True)
        if path not in cls.objects:
            return self.answer(404)
        if self.command == "GET" and cls.late_reads:
            cls.late_reads -= 1
            return self.answer(404)
        data, span = cls.objects[path], self.headers.get("Range", "")
        cls.asked.append((self.command, path, span))
        first, _, last = span.removeprefix("bytes=").partition("-")
        if span and not first:  # the last so many
            if not data:
                return self.answer(416)
            first, last = str(max(0, len(data) - int(last))), str(len(data) - 1)
        part = data[int(first) : int(last) + 1] if span else data
        self.answer(206 if span else 200, part, True, f"bytes {first}-{last}/{len(data)}" if span else "")

    do_HEAD = do_GET  # noqa: N815 - as the library asks for it

    def do_POST(self):
        """Of several to be deleted."""
        data = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if not self.deletes:
            return self.answer(403)
        keys = re.findall("<Key>(.*?)</Key>", data)
        for key in keys:
            type(self).objects.pop(f"/b/{key}", None)
        told = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self.answer(200, f"<DeleteResult>{told}</DeleteResult>".encode(), True)

    def answer(self, code, data=b"", has_body=False, span="", length=None):
        self.send_response(code)
        if code in (200, 206):
            self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
        if span:
            self.send_header("Content-Range", span)
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 08:00:00 GMT")
        self.send_header("Content-Length", str(length or (len(data) if has_body else 0)))
        self.end_headers()
        if has_body and self.command != "HEAD":
            self.wfile.write(data)
        if length:
            self.close_connection = True

    def log_message(self, *_): ...


@pytest.fixture
def served(monkeypatch):
    """A function that serves a store of its own and gives the address of a dataset in it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = []

    def serve(**traits):
        kind = type("Own", (Store,), {"objects": {}, "asked": [], **traits})
        running.append(ThreadingHTTPServer(("127.0.0.1", 0), kind))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        port = running[-1].server_address[1]
        return f"s3://b/ds?endpoint_override=127.0.0.1:{port}&scheme=http", kind

    yield serve
    for server in running:
        server.shutdown()
        server.server_close()
