"""What is measured surely is told from the measurement, not by a model: camera, cuts, words in view.

A model's dense caption loses its sentences that say nothing but how the camera moves, where that is measured
surely (`stripped_of_camera`); what is left is judged; and what is accepted gets the measured sentence, cuts
and words that were read, where it does not say them (`told`). What a sentence says besides the camera stays,
and is judged as it is. Words that were read are no speech of the captioner's and are not judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
_HOW = r"(?:(?:slowly|gently|slightly|steadily|smoothly|quickly|fast|completely|then) )*"
_MOVE = (
    r"(?:is |remains |stays |holds )?(?:static|still|fixed|stationary|hand-?held|moving)"
    r"|(?:pans|tilts|zooms|moves|rolls|is panning|is tilting|is zooming)"
    r"(?: (?:to the )?(?:left|right)| up| down| in| out)?"
)
_AT_LAST = r"(?: (?:slowly|gently|slightly|steadily|smoothly|throughout))?"
_ONLY_CAMERA = re.compile(rf"the (?:camera|shot) {_HOW}(?:{_MOVE}){_AT_LAST}[.!]?", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_OF_CUTS = re.compile(
    r"\b(?:cuts? (?:to|away|back)|(?:scene|shot)s? changes?|changes? to another"
    r"|(?:two|three|four|five|several|\d+) (?:cuts|scenes|shots))\b",
    re.IGNORECASE,
)
_MOST_WORDS = 8


def sure_camera(facts: Mapping[str, Any]) -> str:
    """The tag of how the camera moves, where it is measured surely; else empty."""
    is_video = facts.get("kind") == "video" and (facts.get("num_frames") or 0) > 1
    tag = str(facts.get("camera") or "")
    is_sure = tag in CAMERA and (facts.get("camera_confidence") or 0.0) >= SURE
    return tag if is_video and is_sure and not facts.get("cuts_s") and not facts.get("is_part") else ""


def stripped_of_camera(caption: Caption, facts: Mapping[str, Any]) -> Caption:
    """A dense caption without its sentences of the camera alone, where a sure measurement will say it."""
    tag = sure_camera(facts)
    if caption.kind != "dense" or caption.source == "measured" or not tag or camera_said(caption.text) == tag:
        return caption
    kept = [part for part in _SENTENCE.split(caption.text.strip()) if not _ONLY_CAMERA.fullmatch(part)]
    return replace(caption, text=" ".join(kept)) if kept else caption


def told(caption: Caption, facts: Mapping[str, Any]) -> Caption:
    """An accepted dense caption with what is surely measured of its clip; other kinds as they are."""
    if caption.kind != "dense" or not caption.text.strip():
        return caption
    text = caption.text.strip()
    if caption.source != "measured":
        tag = sure_camera(facts)
        text = _joined(text, CAMERA[tag]) if tag and not camera_said(text) else text
        text = _with_cuts(text, facts)
    text = _with_words(text, facts.get("words") or ())
    return caption if text == caption.text.strip() else replace(caption, text=text)


def _with_cuts(text: str, facts: Mapping[str, Any]) -> str:
    count = len(facts.get("cuts_s") or ())
    if not count or facts.get("is_part") or _OF_CUTS.search(text):
        return text
    return _joined(text, f"The shot changes {'once' if count == 1 else f'{count} times'}")


def _with_words(text: str, words: Sequence[str]) -> str:
    """Adds lines read in the picture that the text does not have yet, `_MOST_WORDS` words of them at most."""
    said, lines, count = " ".join(text.lower().split()), list[str](), 0
    for line in words:
        length = len(line.split())
        if line.lower() not in said and count + length <= _MOST_WORDS:
            lines.append(f"“{line}”")
            count += length
    return _joined(text, f"The text {', '.join(lines)} can be read") if lines else text


def _joined(text: str, sentence: str) -> str:
    text = text.rstrip()
    stop = "" if not text or text.endswith((".", "!", "?", ".”", "!”")) else "."
    return f"{text}{stop} {sentence}.".strip()
