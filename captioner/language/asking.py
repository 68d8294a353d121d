"""Asking a language model of an OpenAI-compatible server a question in text."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from manifests.cli import say
from manifests.errors import IntegrityError, RushesError
from manifests.store.json_files import parse_lines

Ask = Callable[[str], str]
_BEGIN = b'{"model": '
"""Of each line that keeps an answer."""
_MOST_TOKENS = 4096
"""Of an answer: room for a model that thinks aloud first."""


def asker(server: str, model: str) -> Ask:
    """A function that asks one model of an OpenAI-compatible server, at temperature 0."""
    import openai

    client = openai.OpenAI(base_url=server, api_key=os.environ.get("OPENAI_API_KEY") or "none", max_retries=4)

    def ask(text: str) -> str:
        try:
            reply = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": text}],
                temperature=0.0,
                max_tokens=_MOST_TOKENS,
            )
        except openai.OpenAIError as error:
            raise RushesError(server, f"gave no answer: {error}", "See the server's log.") from error
        return reply.choices[0].message.content or ""

    return ask


def remembering(ask: Ask, model: str, path: Path) -> Ask:
    """A function that asks as `ask` does and keeps each answer in a file; what that holds is not asked again.

    A text that is asked for several times has as many answers, in order. The file is JSON lines, of any
    models; a line that a killed process left half written is cut off.

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
        if row["model"] == model:
            known[row["asked"], counts[row["asked"]]] = str(row["answer"])
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
            with path.open("a") as file:
                file.write(json.dumps({"model": model, "asked": asked, "answer": answer}) + "\n")
            known[place] = answer
        return known[place]

    return ask_once
