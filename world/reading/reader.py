"""The reader: what a film of the world shows, from its frames alone.

It knows how the world is drawn and nothing of the prompt, so it says what a sample shows whether or not that
is what was asked for. How sure it is on true renders: `tests/world/test_reading.py` and `rushes evaluate`.

Shape legend: T frames, H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from media.measure.camera import camera
from world.reading import palettes
from world.reading.things import LEAST_SHARE, Fit, fit_shape, masks, texture_of
from world.render import _title_mask
from world.scene import BACKGROUNDS, LIGHTS, SIZES, TITLES, Shot

Array = np.ndarray
ATTRIBUTES = (
    "background",
    "light",
    "count",
    "colour",
    "shape",
    "size",
    "texture",
    "motion",
    "direction",
    "camera",
    "text",
)
"""What is read, of the picture as a whole and of the main subject."""
OF_VIDEOS = ("motion", "direction", "camera")
MOVES_PER_S = 0.08
"""Heights a second from which a thing moves: the world's slowest does .16, a shaking camera's less."""
PLAIN_SPREAD = 0.09
"""Spread of the brightness, shade taken away, up to which a surface is plain."""
TITLE_ALIKE = 0.5
"""Correlation with a drawn title from which it is one."""
FITTED_FRAMES = 5
GLARE = ("studio", "white")
"""Where light falls on the wall as white as a thing. Elsewhere no background has a patch of a thing's colour:
in 300 films each that is large enough is a thing."""
SMALL_SHARE, LEAST_FIT, LEAST_FIT_LARGE = 0.04, 0.66, 0.48
"""A patch that may be glare is a thing only if a shape fits it better than this, small or larger ones. Of 60
white things the larger ones fit by .49 at least. Some glare in cool light fits as well as a thing does:
of 300 stills it is taken for one in 4."""


@dataclass(frozen=True)
class Thing:
    """One thing that was seen."""

    color: str
    shape: str
    size: str
    texture: str
    motion: str
    x: float  # heights from the centre, at mid shot
    fit: float
    is_cut: bool = False  # the border cuts it off, as near mid shot as it is seen


@dataclass(frozen=True)
class Reading:
    """What a film shows."""

    background: str
    light: str
    camera: str
    title: str
    things: tuple[Thing, ...]  # the main subject first

    def attributes(self, is_still: bool) -> dict[str, str]:
        """By the names of `ATTRIBUTES`; those of a main subject are empty where there is none."""
        main = self.things[0] if self.things else Thing("", "", "", "", "", 0.0, 0.0)
        return _named(self.background, self.light, self.camera, self.title, len(self.things), main, is_still)


def truth_of(shot: Shot) -> dict[str, str]:
    """The same attributes of a shot as it is drawn."""
    return _named(
        *(shot.background, shot.light, shot.camera, shot.title),
        *(len(shot.things), shot.things[0], shot.duration_s == 0),
    )


def _named(
    background: str, light: str, move: str, title: str, count: int, main: object, is_still: bool
) -> dict[str, str]:
    color, shape, size, texture, motion = (
        str(getattr(main, name)) for name in ("color", "shape", "size", "texture", "motion")
    )
    moves = "" if not motion else "still" if motion == "still" else "moves"
    values = (background, light, str(count), color, shape, size, texture, moves, motion, move, title)
    found = dict(zip(ATTRIBUTES, values, strict=True))
    return {name: value for name, value in found.items() if not is_still or name not in OF_VIDEOS}


def read(frames: Array, fps: float) -> Reading:
    """What frames [T, H, W, 3] uint8 show; `fps` is of no account for a still."""
    background, light = ground_of(frames)
    seen = masks(frames, background, light)
    title = title_of(frames)
    shares = {color: float(np.median(mask.mean(axis=(1, 2)))) for color, mask in seen.items()}
    patches = {
        color: _thing(frames, fps, color, seen[color]) for color in seen if shares[color] > LEAST_SHARE
    }
    things = [
        thing
        for color, thing in patches.items()
        if (background, color) != GLARE
        or thing.fit > (LEAST_FIT if shares[color] <= SMALL_SHARE else LEAST_FIT_LARGE)
    ]
    move = "static" if len(frames) < 2 else camera_of(frames, fps)
    ordered = sorted(things, key=lambda thing: (thing.size != "large", thing.x))  # as the world orders them
    return Reading(background, light, move, title, tuple(ordered))


def ground_of(frames: Array) -> tuple[str, str]:
    """Background and light: the most likely of all."""
    some = frames[np.unique(np.linspace(0, len(frames) - 1, 4).round().astype(int))]
    bins = palettes.bins_of(some).ravel()
    scores = {
        (name, light): float(palettes.background(name, light)[bins].mean())
        for name in BACKGROUNDS
        for light in LIGHTS
    }
    return max(scores, key=lambda key: scores[key])


def camera_of(frames: Array, fps: float) -> str:
    """The camera's move, by the project's own measurement."""
    luma = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return camera(luma, [index / fps for index in range(len(frames))]).tag


def title_of(frames: Array) -> str:
    """The title at the bottom, or nothing. It stands still while all else moves."""
    height, width = frames.shape[1:3]
    luma = np.median(frames.astype(np.float32).mean(axis=-1), axis=0)
    rows = slice(int(0.68 * height), int(0.96 * height))
    seen = luma[rows] - cv2.GaussianBlur(luma, (0, 0), 0.1 * height)[rows]
    scores = {}
    for title in TITLES:
        drawn = _title_mask(title, width, height)[..., 0]
        drawn = drawn[rows] - cv2.GaussianBlur(drawn, (0, 0), 0.1 * height)[rows]
        scale = math.sqrt(float((drawn**2).sum() * (seen**2).sum()))
        scores[title] = float((drawn * seen).sum()) / scale if scale else 0.0
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] > TITLE_ALIKE else ""


def _thing(frames: Array, fps: float, color: str, mask: Array) -> Thing:
    """A colour's patch as a thing."""
    count, height, width = mask.shape
    area = mask.sum(axis=(1, 2))
    whole = [index for index in range(count) if area[index] and not _is_cut(mask[index])]
    if not whole:
        whole = [index for index in range(count) if area[index]]
    centres = {index: _centre(mask[index]) for index in whole}
    chosen = sorted(whole, key=lambda index: abs(index - (count - 1) / 2))[:FITTED_FRAMES]
    fits = [fit_shape(mask[index]) for index in chosen]
    best = _agreed(fits)
    textures = []
    for index, own in zip(chosen, fits, strict=True):
        there = next(fit for fit in own if (fit.shape, fit.radius) == (best.shape, best.radius))
        name, alike = texture_of(frames[index].mean(axis=-1), mask[index], there)
        textures.append((alike["spread"], name))
    spread = float(np.median([value for value, _ in textures]))
    named = [name for _, name in textures]
    texture = "plain" if spread < PLAIN_SPREAD else max(set(named), key=named.count)
    size = min(SIZES, key=lambda name: abs(SIZES[name] - best.radius))
    seen = [index for index in range(count) if area[index]]
    middle, nearest = (min(own, key=lambda index: abs(index - (count - 1) / 2)) for own in (whole, seen))
    x = (centres[middle][0] - (width - 1) / 2) / height
    return Thing(
        color,
        best.shape,
        size,
        texture,
        _motion(centres, fps, height),
        x,
        best.overlap,
        _is_cut(mask[nearest]),
    )


def _agreed(fits: list[list[Fit]]) -> Fit:
    """The shape and size that fit best over several frames."""
    scores: dict[tuple[str, float], list[float]] = {}
    for own in fits:
        for fit in own:
            scores.setdefault((fit.shape, fit.radius), []).append(fit.overlap)
    total = {key: sum(values) for key, values in scores.items()}
    shape, radius = max(total, key=lambda key: total[key])
    return max(
        (fit for own in fits for fit in own if (fit.shape, fit.radius) == (shape, radius)),
        key=lambda fit: fit.overlap,
    )


def _is_cut(mask: Array) -> bool:
    """Whether a patch touches the border, so that its centre cannot be told."""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def _centre(mask: Array) -> tuple[float, float]:
    """Middle of the box of a patch, (x, y)."""
    rows, columns = np.nonzero(mask)
    return (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2


def _motion(centres: dict[int, tuple[float, float]], fps: float, height: int) -> str:
    """The way a thing goes on screen, from its centres by frame."""
    if len(centres) < 2:
        return "still"
    times = np.array(list(centres)) / fps
    dx, dy = (
        float(np.polyfit(times, np.array([place[axis] for place in centres.values()]) / height, 1)[0])
        for axis in (0, 1)
    )
    if max(abs(dx), abs(dy)) < MOVES_PER_S:
        return "still"
    if abs(dx) >= abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"
