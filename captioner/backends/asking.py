"""Asking a language model of an OpenAI-compatible server a question in text."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captioner.backends.bounded import waiting_client
from captioner.backends.reply import reply_of
from captioner.gates.answers import without_thought
from manifests.cli import say
from manifests.errors import IntegrityError, RushesError, UsageError
from manifests.store.json_files import parse_lines
from manifests.text import valid

Ask = Callable[[str], str]
_BEGIN = b'{"model": '
"""Of each line that keeps an answer."""
_MOST_TOKENS = 4096
"""Of an answer: room for a model that thinks aloud first."""
_PATIENCE_S = 300.0
"""For one answer; it is asked for five times."""


def asker(server: str, model: str) -> Ask:
    """A function that asks one model of an OpenAI-compatible server, at temperature 0.

    What the model thinks aloud before it answers is left out; an answer that is cut off is none.

    Raises:
        UsageError: that is no address.
    """
    import openai

    if not server.lower().startswith(("http://", "https://")):
        step = "Give one such as http://127.0.0.1:8000/v1."
        raise UsageError(f"--server {server!r}", "is no address of a server", step)
    key = os.environ.get("OPENAI_API_KEY") or "none"
    client = openai.OpenAI(
        base_url=server,
        api_key=key,
        max_retries=4,
        timeout=_PATIENCE_S,
        http_client=waiting_client(_PATIENCE_S),
    )

    def ask(text: str) -> str:
        asked = {"model": model, "messages": [{"role": "user", "content": valid(text)}]}
        body = {**asked, "temperature": 0.0, "max_tokens": _MOST_TOKENS}
        try:
            answer: Any = client.post("/chat/completions", cast_to=object, body=body)
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            raise RushesError(server, f"gave no answer: {error}", "See the server's log.") from error
        try:
            reply = reply_of(answer)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            said = f"does not speak the chat protocol: {str(answer)[:200]!r}"
            raise RushesError(server, said, "Check the address; most end in /v1.") from error
        return "" if reply.is_cut else reply.text

    return ask


def remembering(ask: Ask, model: str, path: Path) -> Ask:
    """A function that asks as `ask` does and keeps each answer in a file; what that holds is not asked again.

    A text that is asked for several times has as many answers, in order. The file is JSON lines, of any
    models; a line that a killed process left half written is cut off. An empty answer is not kept: it is
    asked for again.

    Raises:
        IntegrityError: the file holds something else.
    """
    step = "Give another file; this one is not of judge-captions."
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    half = data[len(whole) :]
    if not (half.startswith(_BEGIN) or _BEGIN.startswith(half)):
        raise IntegrityError(str(path), "ends in what is no answer of a judge", step)
    known = dict[tuple[str, int], str]()
    counts = Counter[str]()
    for row in parse_lines(whole, str(path), step, ("model", "asked", "answer")):
        if not isinstance(row["asked"], str) or not isinstance(row["answer"], str):
            raise IntegrityError(str(path), "holds an answer that is no text", step)
        if row["model"] == model and (answer := without_thought(row["answer"])):
            known[row["asked"], counts[row["asked"]]] = answer
            counts[row["asked"]] += 1
    if half:  # only now it is known that the file is ours
        os.truncate(path, len(whole))
    if known:
        say(f"{path}: {len(known)} answers of {model} are there and are not asked for again")
    counts.clear()

    def ask_once(text: str) -> str:
        asked = hashlib.sha256(text.encode()).hexdigest()
        place = asked, counts[asked]
        counts[asked] += 1
        if place not in known:
            answer = ask(text)
            if not answer:
                counts[asked] -= 1
                return answer
            with path.open("a") as file:
                file.write(json.dumps({"model": model, "asked": asked, "answer": answer}) + "\n")
            known[place] = answer
        return known[place]

    return ask_once
