"""A real HTTP server that speaks the chat protocol and can be told to fail, one fault a request, in order."""

import base64
import contextlib
import json
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = {
    "short": "a red ball",
    "dense": "A red ball moves from left to right over a meadow. The camera is static.",
    "subjects": ["red ball"],
    "actions": ["moves right"],
    "setting": "meadow",
    "shot_type": "wide",
    "lighting": "daylight",
    "style": "animation",
    "camera": "static",
}


class ChatServer:
    """Serves on a free port of loopback. `faults` are used up first; `answer(request)` gives the text of the
    rest.
    """

    def __init__(self, answer=None, has_schema=True):
        self.faults: list[str] = []
        self.requests: list[dict] = []
        self.keys: list[str] = []
        self.most_at_once = self._now = 0
        self.answer = answer or (lambda request: json.dumps(ANSWER))
        self.has_schema = has_schema
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer._lock:
                    outer.requests.append(body)
                    outer.keys.append(self.headers.get("authorization", ""))
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                    fault = outer.faults.pop(0) if outer.faults else ""
                time.sleep(0.02)
                with outer._lock:  # before the answer, after which a client may ask again at once
                    outer._now -= 1
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # no longer waited for
                    outer._reply(self, body, fault)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    @staticmethod
    def _drip(handler):
        """Blanks for three seconds, as what keeps a connection alive sends them."""
        handler.send_response(200)
        handler.end_headers()
        for _ in range(30):
            time.sleep(0.1)
            handler.wfile.write(b" ")
            handler.wfile.flush()

    def _reply(self, handler, body, fault):  # noqa: PLR0911 - one a fault
        if fault in {"429", "500", "400", "401"}:
            return self._send(
                handler,
                int(fault),
                json.dumps({"error": {"message": f"told to fail with {fault}"}}),
                {"retry-after": "0.05"} if fault == "429" else {},
            )
        if fault == "timeout":
            time.sleep(1.5)
            return self._send(handler, 200, "{}")
        if fault == "drip":
            return self._drip(handler)
        if fault == "date":
            until = formatdate(time.time() + 2, usegmt=True)
            return self._send(handler, 429, "{}", {"retry-after": until})
        if fault == "html":
            return self._send(handler, 200, "<html>a login page</html>", {"content-type": "text/html"})
        if fault == "half":
            return self._send(handler, 200, '{"id": "x", "choices": [{"mess')
        if not self.has_schema and "response_format" in body:
            return self._send(
                handler,
                400,
                json.dumps({"error": {"message": "response_format json_schema is not supported"}}),
            )
        text = {"refusal": "I'm sorry, I cannot describe this.", "repeat": "a ball " * 60}.get(
            fault
        ) or self.answer(body)
        finish = "length" if fault == "repeat" else "stop"
        reply = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
            "choices": [
                {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
            ],
        }
        return self._send(handler, 200, json.dumps(reply))

    @staticmethod
    def _send(handler, status, text, headers=None):
        data = text.encode()
        handler.send_response(status)
        for name, value in (
            {"content-type": "application/json", "content-length": str(len(data))} | (headers or {})
        ).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


def pictures(request):
    """The image parts of a request, decoded to bytes."""
    parts = request["messages"][-1]["content"]
    return [
        base64.b64decode(part["image_url"]["url"].split(",", 1)[1])
        for part in parts
        if part["type"] == "image_url"
    ]
