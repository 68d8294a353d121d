"""What is measured surely is told from the measurement, not by a model: camera, cuts, words in view.

A dense caption's sentences about the camera give way to the measured one where that is sure; cuts and words
that were read are added where the caption says nothing of them. Whatever else a caption says stays as it is,
and is judged as before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from captioner.gates.contradictions import SURE, camera_said
from captioner.protocol import Caption

VERSION = "told/1"
CAMERA = {
    "static": "The camera is static",
    "pan_left": "The camera pans left",
    "pan_right": "The camera pans right",
    "tilt_up": "The camera tilts up",
    "tilt_down": "The camera tilts down",
    "zoom_in": "The camera zooms in",
    "zoom_out": "The camera zooms out",
    "handheld": "The camera is hand-held",
    "moving": "The camera moves",
}
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_OF_CUTS = re.compile(
    r"\b(?:cuts? (?:to|away|back)|scenes?|shots? changes?|cuts\b|changes to)", re.IGNORECASE
)
_MOST_WORDS = 8


def told(caption: Caption, facts: Mapping[str, Any]) -> Caption:
    """A dense caption with what is surely measured of its clip; other kinds as they are."""
    if caption.kind != "dense" or not caption.text.strip():
        return caption
    is_video = facts.get("kind") == "video" and (facts.get("num_frames") or 0) > 1
    text = caption.text.strip()
    if is_video and not facts.get("is_part") and caption.source != "measured":
        text = _with_cuts(_with_camera(text, facts), facts)
    text = _with_words(text, facts.get("words") or ())
    return caption if text == caption.text.strip() else replace(caption, text=text)


def _with_camera(text: str, facts: Mapping[str, Any]) -> str:
    tag = facts.get("camera") or ""
    is_sure = tag in CAMERA and (facts.get("camera_confidence") or 0.0) >= SURE and not facts.get("cuts_s")
    if not is_sure or camera_said(text) == tag:
        return text
    others = [part for part in _SENTENCE.split(text) if not part.lower().startswith("the camera ")]
    return _joined(" ".join(others), CAMERA[tag])


def _with_cuts(text: str, facts: Mapping[str, Any]) -> str:
    count = len(facts.get("cuts_s") or ())
    if not count or _OF_CUTS.search(text):
        return text
    return _joined(text, f"The shot changes {'once' if count == 1 else f'{count} times'}")


def _with_words(text: str, words: tuple[str, ...] | list[str]) -> str:
    """Lines that were read, those which the text does not have, as many as make few words."""
    said, lines, count = " ".join(text.lower().split()), list[str](), 0
    for line in words:
        count += len(line.split())
        if line.lower() not in said and count <= _MOST_WORDS:
            lines.append(f"“{line}”")
    return _joined(text, f"The text {', '.join(lines)} can be read") if lines else text


def _joined(text: str, sentence: str) -> str:
    text = text.rstrip()
    stop = "" if not text or text.endswith((".", "!", "?", ".”", "!”")) else "."
    return f"{text}{stop} {sentence}.".strip()
