"""From a model's answer to captions: the same for a local model and for a server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from captioner.gates.contradictions import camera_said
from captioner.gates.gates import stripped
from captioner.prompts import TEXT_FIELDS, Prompt, camera_fields, parse_answer
from captioner.protocol import Caption, ClipFrames, Provenance, Usage
from manifests.text import valid

_THOUGHT = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_THOUGHT_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+")


def captions_of(
    text: str,
    clip: ClipFrames,
    source: str,
    provenance: Provenance,
    usage: Usage,
    finish_reason: str,
    kinds: Sequence[str],
    prompt: Prompt,
) -> list[Caption]:
    """Captions of the kinds wanted.

    An answer in plain words is taken as a dense caption; what is left of an object that cannot be read is one
    too, for the gate to reject (`schema:`).

    The cost of the answer is on the first caption alone, so that sums over captions are true.
    """
    text = without_thought(readable(text))
    common: dict[str, Any] = {"source": source, "provenance": provenance, "finish_reason": finish_reason}
    answer = parse_answer(text)
    if answer is None:
        found = [
            Caption(
                kind="dense",
                text=text.strip(),
                fields={"camera": camera_fields(clip.facts, camera_said(text))},
                **common,
            )
        ]
    else:
        fields: dict[str, Any] = {
            "subjects": list(answer["subjects"]),
            "actions": list(answer["actions"]),
            **{name: answer[name] for name in TEXT_FIELDS},
            "camera": camera_fields(clip.facts, answer["camera"]),
        }
        texts = {"short": answer["short"], "dense": answer["dense"], "structured": fields_text(fields)}
        found = [
            Caption(kind=kind, text=texts[kind], fields=fields if kind != "short" else {}, **common)
            for kind in kinds
            if kind in texts
        ]
    found = [stripped(caption) for caption in found]
    return [replace(found[0], usage=usage), *found[1:]] if found else []


def without_thought(text: str) -> str:
    """An answer without what a model thought before it, ended or not."""
    *thought, answer = _THOUGHT_END.split(text)
    if thought:
        return answer.strip()
    return "" if _THOUGHT.match(text.lstrip()) else text


def readable(text: str) -> str:
    """The text without half characters and control characters; those between words become blanks."""
    return _CONTROL.sub(" ", valid(text))


def fields_text(fields: dict[str, Any]) -> str:
    """Structured fields as one line of text, empty ones left out; whatever others have put there."""
    parts = [(name.replace("_", " "), _words(value)) for name, value in fields.items()]
    return ". ".join(f"{name}: {words}" for name, words in parts if words)


def _words(value: Any) -> str:
    """A field's value: of a list its items, of an object what it is called, or all that it says."""
    if isinstance(value, dict):
        named = next((value[key] for key in ("tag", "name") if isinstance(value.get(key), str)), None)
        return named if named is not None else ", ".join(filter(None, map(_words, value.values())))
    if isinstance(value, (list, tuple)):
        return "; ".join(filter(None, map(_words, value)))
    return "" if value is None else str(value)
