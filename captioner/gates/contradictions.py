"""What a caption says against what was measured: camera, motion, main colour, number of cuts.

A sentence of a model is vetoed by a sure measurement, never the other way.

Only flat contradictions count. A measurement that is unsure, or of something the caption leaves open, says
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from captioner.protocol import Caption

SURE = 0.6
"""Confidence of the camera measurement from which on it is believed against a model (all claims from .5 on
were right, see benchmarks/RESULTS.md)."""
FROZEN_SHARE, MUCH_MOTION = 0.98, 1.5
_CAMERA = {
    "pan_left": r"pan(?:s|ning)? (?:to the )?left",
    "pan_right": r"pan(?:s|ning)? (?:to the )?right",
    "tilt_up": r"tilt(?:s|ing)? up",
    "tilt_down": r"tilt(?:s|ing)? down",
    "zoom_in": r"zoom(?:s|ing)? in",
    "zoom_out": r"zoom(?:s|ing)? out",
}
_OPPOSITE = {"pan_left": "pan_right", "tilt_up": "tilt_down", "zoom_in": "zoom_out"}
_OPPOSITE |= {b: a for a, b in _OPPOSITE.items()}
_STATIC = re.compile(
    r"camera (?:is|remains|stays|holds) (?:completely )?(?:static|still|fixed|stationary)|static "
    r"(?:camera|shot)",
    re.IGNORECASE,
)
_MOVING = re.compile(
    r"\b(?:runs?|running|races?|rushes|moves? (?:quickly|fast|rapidly)|fast motion)\b", re.IGNORECASE
)
_LYING = re.compile(  # what may run without moving
    r"\b(?:beam|border|bridge|brook|cable|canal|coast|crack|creek|fence|hedge|line|path|pipe|rail|railing|railway"
    r"|ridge|river|road|seam|stream|street|stripe|text|track|trail|vein|wall|wire)s?\b",
    re.IGNORECASE,
)
_ALIVE = re.compile(  # who runs beside it
    r"\b(?:animals?|athletes?|birds?|boys?|bus|cars?|cats?|child|children|cows?|crowd|cyclists?|deer|dogs?|girls?"
    r"|he|horses?|kids?|man|men|people|persons?|players?|runners?|she|sheep|team|they|trains?|trucks?|who|woman"
    r"|women)\b",
    re.IGNORECASE,
)
_BEFORE_CHARS = 120
_ALONG = re.compile(r" (?:along|through|across|beside|down|up|from|between)\b", re.IGNORECASE)
_NOTHING = re.compile(
    r"\b(?:nothing moves|completely still|motionless throughout|no motion)\b", re.IGNORECASE
)
_MAIN_COLOR = re.compile(r"\b(?:mostly|mainly|dominated by|predominantly) ([a-z]+)", re.IGNORECASE)
_COUNT = r"(?P<{}>one|two|three|four|\d+)"
_EDITS = r"(?:cuts|scenes|shots(?! of\b))\b"
_NUM_CUTS = re.compile(  # a golfer's shots and scenes on a vase are none
    rf"\b(?:clip|film|footage|montage|sequence|video)\b(?: \w+){{0,3}} {_COUNT.format('a')} (?:\w+ )?{_EDITS}"
    rf"|\b(?:in|across|over|through|there are) {_COUNT.format('b')} {_EDITS}"
    rf"|\b{_COUNT.format('c')} (?:consecutive|different|distinct|hard|separate) {_EDITS}"
    rf"|\b{_COUNT.format('d')} (?:camera cuts|cuts between)\b"
    rf"|\b(?:it|this) has {_COUNT.format('e')} cuts\b(?! of)"
    rf"|(?:^|(?<=\. )){_COUNT.format('f')} (?:scenes|shots): (?:first|one)\b",
    re.IGNORECASE,
)
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
_SINGLE = re.compile(r"\b(?:single (?:continuous )?(?:shot|take)|one continuous shot)\b", re.IGNORECASE)


def camera_said(text: str) -> str:
    """The one camera move a caption names; `static`; or empty where it names none or several."""
    if "camera" not in text.lower():
        return ""
    moves = [
        tag
        for tag, pattern in _CAMERA.items()
        if re.search(rf"(?<!not )(?<!n't )(?<!never )(?<!without )\b{pattern}", text, re.IGNORECASE)
    ]
    return moves[0] if len(moves) == 1 else "static" if not moves and _STATIC.search(text) else ""


def contradictions(caption: Caption, facts: Mapping[str, Any]) -> list[str]:
    """Reasons `contradicts:...` with what is said and what was measured; empty without any."""
    if facts.get("kind") == "image" or facts.get("num_frames") == 1:
        said = camera_said(caption.text)
        return [f"contradicts:camera {said}, measured one frame"] if said not in {"", "static"} else []
    found = []
    said, measured, confidence = (
        camera_said(caption.text),
        facts.get("camera") or "",
        facts.get("camera_confidence") or 0.0,
    )
    if said and confidence >= SURE and _at_odds(said, measured):
        found.append(f"contradicts:camera {said}, measured {measured} ({confidence:.2f})")
    motion, frozen = facts.get("motion"), facts.get("frozen_share") or 0.0
    if frozen >= FROZEN_SHARE and _says_it_moves(caption.text):
        found.append(f"contradicts:motion said, measured frozen_share {frozen:.2f}")
    if motion is not None and motion >= MUCH_MOTION and _NOTHING.search(caption.text):
        found.append(f"contradicts:stillness said, measured motion {motion:.2f}")
    names = [name.split()[-1] for name in facts.get("palette") or []]
    if (
        names
        and (hit := _MAIN_COLOR.search(caption.text))
        and _is_color(hit.group(1))
        and hit.group(1).lower().replace("gray", "grey") not in names
    ):
        found.append(f"contradicts:mostly {hit.group(1).lower()}, measured {', '.join(names)}")
    cuts = facts.get("cuts_s")
    if cuts is not None:
        found += _cut_faults(caption.text, len(cuts))
    return found


def _says_it_moves(text: str) -> bool:
    for hit in _MOVING.finditer(text):
        before = re.split(r"[.;!?]", text[max(0, hit.start() - _BEFORE_CHARS) : hit.start()])[-1]
        is_lying = _ALONG.match(text, hit.end()) or (_LYING.search(before) and not _ALIVE.search(before))
        if not (hit.group().lower().startswith("run") and is_lying):
            return True
    return False


def _at_odds(said: str, measured: str) -> bool:
    if measured == "static":
        return said != "static"
    return _OPPOSITE.get(said) == measured or (said == "static" and measured in _CAMERA)


def _is_color(word: str) -> bool:
    return word.lower() in {
        "red",
        "orange",
        "yellow",
        "green",
        "blue",
        "purple",
        "pink",
        "white",
        "black",
        "brown",
        "grey",
        "gray",
        "cyan",
        "beige",
    }


def _cut_faults(text: str, count: int) -> list[str]:
    if count and _SINGLE.search(text):
        return [f"contradicts:single shot said, measured {count} cuts"]
    if hit := _NUM_CUTS.search(text):
        word = next(filter(None, hit.groups())).lower()
        said = _NUMBERS.get(word) or int(word)
        shots = said if "cut" not in hit.group(0).lower() else said + 1
        if shots != count + 1:
            return [f"contradicts:{hit.group(0)} said, measured {count} cuts"]
    return []
