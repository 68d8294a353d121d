"""Counterfactual shots: the same shot seen in a mirror, run backwards, with other colours or frozen.

Each changes some facts and leaves all others, and its frames can be had from those of the original or drawn
anew: a captioner that looks changes its words in exactly those places, one that guesses does not. The
mirrored and reversed ones are also more training data with exact captions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from world.scene import COLORS, Shot, prominence

KINDS = ("mirrored", "reversed", "recoloured", "frozen")
CHANGES: dict[str, tuple[str, ...]] = {
    "mirrored": ("direction", "camera", "relation"),
    "reversed": ("direction", "camera"),
    "recoloured": ("colour",),
    "frozen": ("motion", "direction", "camera"),
}
"""Which attributes may differ from the original's."""
_MIRROR = {"left": "right", "right": "left", "pan_left": "pan_right", "pan_right": "pan_left"}
_REVERSE = _MIRROR | {
    "up": "down",
    "down": "up",
    "tilt_up": "tilt_down",
    "tilt_down": "tilt_up",
    "zoom_in": "zoom_out",
    "zoom_out": "zoom_in",
}


def mirrored(shot: Shot) -> Shot:
    """Left and right exchanged, frames and facts. A title would be unreadable, so none may be there."""
    things = [
        replace(
            thing,
            x=-thing.x,
            motion=_MIRROR.get(thing.motion, thing.motion),
            turn=-thing.turn,
            angle=-thing.angle,
        )
        for thing in shot.things
    ]
    return replace(shot, things=sorted(things, key=prominence), camera=_MIRROR.get(shot.camera, shot.camera))


def reversed_shot(shot: Shot) -> Shot:
    """Run backwards."""
    things = [
        replace(thing, motion=_REVERSE.get(thing.motion, thing.motion), turn=-thing.turn)
        for thing in shot.things
    ]
    return replace(shot, things=things, camera=_REVERSE.get(shot.camera, shot.camera))


def recoloured(shot: Shot) -> Shot:
    """Every thing in another colour that none of them has."""
    names, used = list(COLORS), {thing.color for thing in shot.things}
    free = [name for name in names if name not in used]
    start = shot.seed % len(free)
    return replace(
        shot,
        things=[
            replace(thing, color=free[(start + index) % len(free)]) for index, thing in enumerate(shot.things)
        ],
    )


def frozen(shot: Shot) -> Shot:
    """The middle of the shot standing still: nothing moves and neither does the camera."""
    return replace(
        shot,
        camera="static",
        things=[replace(thing, motion="still", speed=0.0, turn=0.0) for thing in shot.things],
    )


def counterfactual(kind: str, shot: Shot, frames: np.ndarray) -> tuple[Shot, np.ndarray | None]:
    """The changed facts and, if they follow from the frames [T, H, W, 3], the changed frames.

    None for frames that must be drawn anew.
    """
    if kind == "mirrored":
        return mirrored(shot), frames[:, :, ::-1]
    if kind == "reversed":
        return reversed_shot(shot), frames[::-1]
    if kind == "frozen":
        return frozen(shot), np.repeat(frames[len(frames) // 2][None], len(frames), axis=0)
    return recoloured(shot), None
