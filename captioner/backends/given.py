"""Captions a clip came with: timed ground truth from its sidecar, and the alt text of its source."""

from __future__ import annotations

import json
from collections.abc import Sequence

from captioner.protocol import KINDS, Caption, ClipFrames

_MIN_OVERLAP = 0.8  # share of the clip that a timed caption must cover


def given_captions(facts: dict) -> list[Caption]:
    """The ground-truth captions that cover a clip, and its alt text, if any.

    Args:
        facts: the clip's row: start_s, end_s, alt, timed_captions_json.
    """
    found: list[Caption] = []
    length = max(facts["end_s"] - facts["start_s"], 1e-6)
    for row in json.loads(facts.get("timed_captions_json") or "[]"):
        overlap = min(row["end_s"], facts["end_s"]) - max(row["start_s"], facts["start_s"])
        if row["kind"] in KINDS and (facts["kind"] == "image" or overlap / length >= _MIN_OVERLAP):
            fields = _fields(row["text"]) if row["kind"] == "structured" else {}
            text = "; ".join(f"{key}: {value}" for key, value in fields.items()) if fields else row["text"]
            found.append(Caption(kind=row["kind"], text=text, source="ground_truth", fields=fields))
    if facts.get("alt"):
        found.append(Caption(kind="alt", text=facts["alt"], source="alt"))
    return found


def _fields(text: str) -> dict:
    """The fields of a structured caption; none where it is plain text, as older plans may hold it."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class GivenCaptioner:
    """The `given` backend: writes nothing of its own, so that a clip has only the captions it came with."""

    name, version = "given", "given/1"
    at_once = 1

    def setup(self) -> None:
        """Nothing to load."""

    def caption(self, clips: Sequence[ClipFrames], attempt: int = 0) -> list[list[Caption]]:
        return [[] for _ in clips]
