"""Whatever a server answers to a question in text: words, or one line that says what it did."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from captioner.backends import asking
from captioner.backends.asking import asker
from captioner.prompts import parse_answer
from captioner.registry import make_upsampler
from manifests.errors import RushesError, UsageError
from tests.captioner.backends.chat_server import ChatServer


@contextlib.contextmanager
def serving(body, status=200, kind="application/json"):
    """A server that gives one body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def said(content, reason="stop"):
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": reason}]}).encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (said("yes"), "yes"),
        (said("<think>no?\nno.</think>\nyes"), "yes"),
        (said([{"type": "text", "text": "yes"}]), "yes"),
        (said("half an answ", "length"), ""),
        (said(None), ""),
        (b'{"choices": []}', ""),
    ],
)
def test_words_are_what_the_model_says_and_not_what_it_thinks(body, words):
    with serving(body) as url:
        assert asker(url, "m")("a question, half of a letter: \ud83d") == words


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": null}'.replace(b"null", b"5"),
        b'{"error": {"message": "overloaded"}}',
        b'"text"',
        b"[1]",
        b"5",
        b"<html>",
        b'{"choices": [{"mess',
        b"[" * 100_000,
        said("x" * (3 << 20)),
    ],
    ids=["number", "error", "text", "list", "five", "html", "half", "deep", "large"],
)
def test_what_is_no_answer_is_one_error_that_names_the_server(body, monkeypatch):
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *_: 0.0)
    with serving(body) as url, pytest.raises(RushesError, match=url):
        asker(url, "m")("a question")


@pytest.mark.parametrize("server", ["", "notaurl", "file:///etc/passwd"])
def test_what_is_no_server_is_refused_at_once(server):
    with pytest.raises(UsageError, match="no address of a server"):
        asker(server, "m")


def test_an_answer_that_drips_is_given_up_at_its_limit(monkeypatch):
    monkeypatch.setattr(asking, "_PATIENCE_S", 0.4)
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *_: 0.0)
    with ChatServer() as server:
        server.faults = ["drip"] * 5
        begin = time.monotonic()
        with pytest.raises(RushesError, match="gave no answer"):
            asker(server.url.replace("http", "HTTP"), "m")("a question")
        assert (
            len(server.requests) == 5 and time.monotonic() - begin < 8
        )  # each would go on for three seconds


@pytest.mark.parametrize("given", [{"server": "http://127.0.0.1:9/v1"}, {"model": "m"}])
def test_a_server_of_prompts_needs_a_model_and_a_model_a_server(given):
    with pytest.raises(UsageError, match="Give both, or none"):
        make_upsampler(**given)


@pytest.mark.parametrize("text", ['{"short": ' + "9" * 6000 + "}", "{" + '"a":[' * 100_000 + "}"])
def test_an_answer_that_python_cannot_hold_is_none(text):
    assert parse_answer(text) is None
