"""Scenes: what can happen in a shot of the film world, drawn from a seed.

Lengths are in frame heights, but for an object's radius, which is a share of the square root of the frame's
area: a small object shows as well in a wide frame as in a tall one; times in seconds, angles in radians.
Directions of motion are as seen on screen; a camera that pans right makes the background slide left. Things
are in order of prominence, a rule that can be seen: large before small, then from left to right at mid-shot;
the first is the main subject.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 52, 48),
    "orange": (238, 140, 36),
    "yellow": (240, 210, 64),
    "green": (66, 168, 84),
    "blue": (54, 104, 214),
    "purple": (138, 70, 182),
    "pink": (238, 132, 176),
    "white": (238, 238, 232),
}
SHAPES = ("ball", "box", "triangle", "star", "ring")
SIZES = {"small": 0.13, "large": 0.23}
"""Radius over the square root of the frame's area: large enough that what it is can be told at the few pixels
a captioner looks at."""
CLEAR = 0.1
"""Whatever follows from where things stand, which comes first and which side of the other it is on, must be
so by this many frame heights: by less it could not be seen."""
TEXTURES = ("plain", "striped", "dotted")
MOTIONS = {
    "right": (1.0, 0.0),
    "left": (-1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "still": (0.0, 0.0),
}
CAMERAS = ("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "handheld")
BACKGROUNDS = {
    "meadow": ((150, 196, 220), (98, 148, 70)),
    "desert": ((226, 204, 164), (196, 140, 84)),
    "night sky": ((18, 22, 54), (44, 42, 92)),
    "brick wall": ((150, 84, 66), (120, 62, 50)),
    "studio": ((206, 206, 212), (150, 152, 162)),
    "sea": ((140, 190, 214), (30, 92, 136)),
}
LIGHTS = {
    "daylight": (1.0, 1.0, 1.0),
    "warm light": (1.1, 0.98, 0.82),
    "cool light": (0.86, 0.97, 1.1),
    "dim light": (0.62, 0.62, 0.66),
}
TITLES = ("OPENING", "PART TWO", "RUSHES", "SALE", "THE END", "TAKE 7")


@dataclass(frozen=True)
class Thing:
    """One object.

    `x`, `y`: centre at the middle of the shot, from the frame's centre; `speed` in frame heights per second.
    """

    shape: str
    color: str
    size: str
    texture: str
    motion: str
    x: float
    y: float
    speed: float
    turn: float  # radians per second
    angle: float


@dataclass(frozen=True)
class Shot:
    """One uncut take: everything the renderer needs and everything there is to know."""

    seed: int
    duration_s: float
    background: str
    light: str
    camera: str
    camera_speed: float
    things: list[Thing] = field(default_factory=list)
    title: str = ""


def _pick(rng: np.random.Generator, options: tuple | list | dict) -> str:
    names = list(options)
    return names[int(rng.integers(len(names)))]


def sample_thing(rng: np.random.Generator, aspect: float, taken: list[Thing]) -> Thing | None:
    """A new object that can be told apart from those already there; None without room for one.

    It is inside the frame at mid-shot, clearly before or behind and to one side of each, in a colour of its
    own.
    """
    used = {thing.color for thing in taken}
    motion = _pick(rng, MOTIONS)
    for _ in range(200):
        size = _pick(rng, SIZES)  # with the place: where there is little room only small things fit
        x, y = rng.uniform(-0.32, 0.32) * aspect, rng.uniform(-0.28, 0.28)
        if all(_is_clear(size, x, y, other, aspect) for other in taken):
            break
    else:
        return None
    return Thing(
        shape=_pick(rng, SHAPES),
        color=_pick(rng, [name for name in COLORS if name not in used]),
        size=size,
        texture=_pick(rng, TEXTURES),
        motion=motion,
        x=float(x),
        y=float(y),
        speed=float(rng.uniform(0.16, 0.3)) if motion != "still" else 0.0,
        turn=float(rng.uniform(-0.8, 0.8)),
        angle=float(rng.uniform(-0.5, 0.5)),
    )


def _is_clear(size: str, x: float, y: float, other: Thing, aspect: float) -> bool:
    across, down, apart = abs(x - other.x), abs(y - other.y), (SIZES[size] + SIZES[other.size]) * aspect**0.5
    is_ordered = size != other.size or across > CLEAR
    return max(across, down) > apart and is_ordered and abs(across - down) > CLEAR


def prominence(thing: Thing) -> tuple[bool, float]:
    """Sort key: the main subject first."""
    return thing.size != "large", thing.x


def sample_shot(seed: int, aspect: float, duration_s: float) -> Shot:
    """A shot drawn from its seed.

    Args:
        seed: any integer; the same seed gives the same shot.
        aspect: width over height of the frame.
        duration_s: length in seconds; 0 for a still.
    """
    rng = np.random.default_rng(seed)
    background = _pick(rng, BACKGROUNDS)
    camera = _pick(rng, CAMERAS) if duration_s > 0 else "static"
    things: list[Thing] = []
    for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
        if thing := sample_thing(rng, aspect, things):
            things.append(thing)
    things.sort(key=prominence)
    speed = float(rng.uniform(0.14, 0.24))
    title = _pick(rng, TITLES) if rng.random() < 0.12 else ""
    return Shot(seed, duration_s, background, _pick(rng, LIGHTS), camera, speed, things, title)
