"""What a caption of the film world asserts, read by rule: one reader for every backend.

A slot is an attribute and the value asserted for it. Truth is read from a shot's facts in the same form, so
recall is the share of true facts that are said, and precision the share of what is said that is true. What a
caption leaves open counts for neither. It reads only what the film world can show; it is no parser of
English.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from world.captions import relation
from world.scene import BACKGROUNDS, CAMERAS, COLORS, SHAPES, Shot

ATTRIBUTES = (
    "object",
    "colour",
    "size",
    "count",
    "motion",
    "direction",
    "camera",
    "background",
    "shot changes",
    "relation",
)
CHANCE = {
    "object": 1 / len(SHAPES),
    "colour": 1 / len(COLORS),
    "size": 1 / 2,
    "count": 1 / 3,
    "motion": 1 / 2,
    "direction": 1 / 4,
    "camera": 1 / len(CAMERAS),
    "background": 1 / len(BACKGROUNDS),
    "shot changes": 1 / 2,
    "relation": 1 / 4,
}
"""Recall of one who asserts every attribute and guesses evenly."""
_SHAPE_WORDS = {
    "ball": "ball",
    "balls": "ball",
    "sphere": "ball",
    "circle": "ball",
    "box": "box",
    "cube": "box",
    "square": "box",
    "triangle": "triangle",
    "pyramid": "triangle",
    "star": "star",
    "ring": "ring",
    "hoop": "ring",
}
_NOT_THINGS = {"video", "picture", "image", "clip", "frame", "shot"}
"""Behind a shape's name, these are what has the shape: a square video shows no square."""
_SIZE_WORDS = {
    "small": "small",
    "little": "small",
    "tiny": "small",
    "large": "large",
    "big": "large",
    "huge": "large",
}
_COLOR_WORDS = {name: name for name in COLORS} | {"violet": "purple", "crimson": "red", "rose": "pink"}
_SETTINGS = {
    "meadow": r"\b(meadow|grass|field)\b",
    "desert": r"\b(desert|dunes?|sand|sandy)\b",
    "night sky": r"\b(starry|night sky|night)\b",
    "brick wall": r"\bbricks?\b",
    "studio": r"\b(studio|tiled floor)\b",
    "sea": r"\b(sea|ocean|water)\b",
}
_DIRECTIONS = {
    "right": r"from left to right|to the right|rightwards?|moves? right",
    "left": r"from right to left|to the left|leftwards?|moves? left",
    "up": r"moves? up|upwards?|rises?|rising",
    "down": r"moves? down|downwards?|falls?|falling|sinks?",
}
_STILL = r"stays? still|does not move|motionless|stationary|at rest"
_MOVES = r"\bmov(?:e|es|ing)\b"
_CAMERA_WORDS = {
    "pan_left": r"pans? (?:to the )?left",
    "pan_right": r"pans? (?:to the )?right",
    "tilt_up": r"tilts? up",
    "tilt_down": r"tilts? down",
    "zoom_in": r"zooms? in",
    "zoom_out": r"zooms? out",
    "handheld": r"hand-?held|shak(?:es|y|ing)",
    "static": r"static|fixed|does not move",
}
_RELATION = re.compile(r"\b(?:is|to the)?\s*(left of|right of|above|below|under)\b")
_CUTS = re.compile(r"\b(?:shot changes|cuts? to|scene changes|then the shot)\b", re.IGNORECASE)


@dataclass(frozen=True)
class ThingSlots:
    """What is said of one object; empty strings for what is left open."""

    shape: str
    color: str = ""
    size: str = ""
    motion: str = ""
    """still, moves or empty."""
    direction: str = ""


@dataclass(frozen=True)
class Slots:
    """Everything a caption asserts, or everything that is true."""

    things: tuple[ThingSlots, ...] = ()
    background: str = ""
    camera: str = ""
    relation: str = ""
    num_cuts: int | None = None
    """None: the caption is silent on cuts, which asserts there is none only where it describes a whole clip.
    """


def truth(shots: Iterable[Shot]) -> Slots:
    """Slots of a clip that shows one shot or several in a row."""
    shots = list(shots)
    first = shots[0]
    things = tuple(
        ThingSlots(
            thing.shape,
            thing.color,
            thing.size,
            "" if first.duration_s == 0 else "still" if thing.motion == "still" else "moves",
            "" if thing.motion == "still" or first.duration_s == 0 else thing.motion,
        )
        for shot in shots
        for thing in shot.things
    )
    is_video = first.duration_s > 0
    related = next(filter(None, map(relation, shots)), "")
    return Slots(
        things,
        first.background,
        first.camera if is_video else "",
        related,
        len(shots) - 1 if is_video else None,
    )


def _match(patterns: dict[str, str], text: str) -> str:
    """The value whose pattern occurs first."""
    found = [(hit.start(), name) for name, pattern in patterns.items() if (hit := re.search(pattern, text))]
    return min(found)[1] if found else ""


def read(caption: str) -> Slots:
    """The slots that a caption asserts."""
    text = caption.lower()
    sentences = [part.strip() for part in re.split(r"(?<=[.!?])\s+", text) if part.strip()]
    camera_part = " ".join(part for part in sentences if "camera" in part)
    scene = " ".join(part for part in sentences if "camera" not in part and not part.startswith("the text"))
    related = [
        part
        for part in sentences
        if part.startswith("the ") and _RELATION.search(part) and "camera" not in part
    ]
    for part in related:
        scene = scene.replace(part, "")
    relation_found = ""
    if related and (hit := _RELATION.search(related[0])):
        relation_found = {"under": "below"}.get(hit.group(1), hit.group(1))
    return Slots(
        tuple(_things(scene)),
        _match(_SETTINGS, scene),
        _match(_CAMERA_WORDS, camera_part),
        relation_found,
        len(_CUTS.findall(text)),
    )


def _things(scene: str) -> list[ThingSlots]:
    """Objects in the order they are named: adjectives before the noun, actions after it."""
    words = list(re.finditer(r"[a-z-]+", scene))
    after = [word.group() for word in words[1:]] + [""]
    nouns = [
        index
        for index, word in enumerate(words)
        if word.group() in _SHAPE_WORDS and after[index] not in _NOT_THINGS
    ]
    found = []
    for place, index in enumerate(nouns):
        before = [
            word.group() for word in words[max(nouns[place - 1] + 1 if place else 0, index - 4) : index]
        ]
        end = words[nouns[place + 1]].start() if place + 1 < len(nouns) else len(scene)
        behind = scene[words[index].end() : end]
        color = next((_COLOR_WORDS[word] for word in reversed(before) if word in _COLOR_WORDS), "")
        size = next((_SIZE_WORDS[word] for word in reversed(before) if word in _SIZE_WORDS), "")
        direction = _match(_DIRECTIONS, behind)
        motion = (
            "moves"
            if direction or re.search(_MOVES, behind)
            else "still"
            if re.search(_STILL, behind)
            else ""
        )
        found.append(ThingSlots(_SHAPE_WORDS[words[index].group()], color, size, motion, direction))
    return found


@dataclass
class Tally:
    """Counts of one attribute: facts there are, facts said, facts said and true."""

    true: int = 0
    said: int = 0
    right: int = 0

    def add(self, true: int, said: int, right: int) -> None:
        self.true, self.said, self.right = self.true + true, self.said + said, self.right + right

    @property
    def recall(self) -> float:
        return self.right / self.true if self.true else float("nan")

    @property
    def precision(self) -> float:
        return self.right / self.said if self.said else float("nan")

    @property
    def assertion(self) -> float:
        """Assertions made per fact there is."""
        return self.said / self.true if self.true else float("nan")


def _pairs(said: list[ThingSlots], true: list[ThingSlots]) -> list[tuple[ThingSlots, ThingSlots]]:
    """Each named object with the true one it is most like, each used once.

    Colour and shape tell objects apart; colours are unique in a shot.
    """

    def likeness(a: ThingSlots, b: ThingSlots) -> tuple[int, int]:
        return 2 * (a.color == b.color) + 2 * (a.shape == b.shape), (a.size == b.size) + (
            a.direction == b.direction
        ) + (a.motion == b.motion)

    options = sorted(
        ((likeness(a, b), -i, -j) for i, a in enumerate(said) for j, b in enumerate(true)), reverse=True
    )
    used_said: set[int] = set()
    used_true: set[int] = set()
    pairs = []
    for _, i, j in options:
        if -i not in used_said and -j not in used_true:
            used_said.add(-i)
            used_true.add(-j)
            pairs.append((said[-i], true[-j]))
    return pairs


def compare(said: Slots, true: Slots, tallies: dict[str, Tally]) -> set[str]:
    """Add one caption to the tallies.

    Returns the attributes in which it says something false or leaves something out.
    """
    wrong: set[str] = set()

    def add(name: str, num_true: int, num_said: int, num_right: int) -> None:
        tallies[name].add(num_true, num_said, num_right)
        if num_right < max(num_true, num_said):
            wrong.add(name)

    pairs = _pairs(list(said.things), list(true.things))
    for name, key in (
        ("object", "shape"),
        ("colour", "color"),
        ("size", "size"),
        ("motion", "motion"),
        ("direction", "direction"),
    ):
        right = sum(bool(getattr(b, key)) and getattr(a, key) == getattr(b, key) for a, b in pairs)
        add(
            name,
            sum(bool(getattr(thing, key)) for thing in true.things),
            sum(bool(getattr(thing, key)) for thing in said.things),
            right,
        )
    if said.things:
        add("count", 1, 1, int(len(said.things) == len(true.things)))
    else:
        add("count", 1, 0, 0)
    for name, a, b in (
        ("camera", said.camera, true.camera),
        ("background", said.background, true.background),
        ("relation", said.relation, true.relation),
    ):
        add(name, int(bool(b)), int(bool(a)), int(bool(b) and a == b))
    if true.num_cuts:
        add("shot changes", 1, int(bool(said.num_cuts)), int(said.num_cuts == true.num_cuts))
    elif said.num_cuts:
        add("shot changes", 0, 1, 0)
    return wrong


def new_tallies() -> dict[str, Tally]:
    return {name: Tally() for name in ATTRIBUTES}
