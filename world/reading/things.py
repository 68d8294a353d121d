"""Finding the things of a film: which colours stand before the background, where, and of what shape.

A film has at most one thing of a colour (world/scene.py), so a colour that covers a compact patch is a thing.

Shape legend: T frames, H W pixels.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from world.reading import palettes
from world.render import _distance
from world.scene import COLORS, SHAPES, SIZES

Array = np.ndarray
LEAST_SHARE = 0.0115
"""Of the picture that a thing covers at least, in frames that show all of it."""
MIN_SURE = 0.5
"""Log likelihood by which a pixel is a thing's and not the background's."""
SYMMETRY = {"ball": 1, "ring": 1, "box": 90, "triangle": 120, "star": 72}
"""Degrees after which a shape looks the same; 1 for round ones."""
STEP_DEG = 8.0


def masks(frames: Array, background: str, light: str) -> dict[str, Array]:
    """Where each colour of thing is seen, [T, H, W] bool, largest patch of each frame."""
    bins = palettes.bins_of(frames)
    ground = palettes.background(background, light)[bins]
    scores = np.stack([palettes.thing(color, light)[bins] for color in COLORS])  # [8, T, H, W]
    smooth = np.stack(
        [[_smoothed(score - base) for score, base in zip(own, ground, strict=True)] for own in scores]
    )
    best = smooth.argmax(axis=0)
    found = {}
    for index, color in enumerate(COLORS):
        mask = np.stack([_patch(part) for part in (smooth[index] > MIN_SURE) & (best == index)])
        found[color] = mask
    return found


def _smoothed(value: Array) -> Array:
    smooth: Array = cv2.blur(value.astype(np.float32), (3, 3), borderType=cv2.BORDER_REPLICATE)
    return smooth


def _patch(mask: Array) -> Array:
    """The largest connected patch of a mask [H, W]; small gaps between its parts are bridged."""
    joined = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    if count < 2:
        return np.zeros_like(mask)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    found: Array = (labels == largest) & mask
    return found


@functools.cache
def _templates(shape: str, radius_px: float, side: int) -> tuple[Array, Array]:
    """Masks [n, side, side] of a shape at angles [n], its centre in the middle."""
    period = SYMMETRY[shape]
    angles = np.arange(0.0, period, STEP_DEG) if period > 1 else np.zeros(1)
    grid = np.arange(side) - (side - 1) / 2
    x, y = np.meshgrid(grid, grid)
    drawn = []
    for angle in np.radians(angles):
        qx, qy = x * math.cos(angle) + y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle)
        drawn.append(np.clip(0.5 - _distance(shape, qx, qy, radius_px), 0, 1))
    return np.stack(drawn).astype(np.float32), np.radians(angles)


@dataclass(frozen=True)
class Fit:
    """A shape laid over a mask: how well, where, how large (radius over the root of the area), how turned."""

    overlap: float
    shape: str
    radius: float
    angle: float
    x_px: float
    y_px: float


def fit_shape(mask: Array) -> list[Fit]:
    """The best fit of each shape and size to a mask [H, W], best first."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    center = ((columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2)
    mean = (columns.mean(), rows.mean())
    found = []
    for size in SIZES.values():
        for scale in (0.92, 1.0, 1.08):
            radius = size * math.sqrt(width * height) * scale
            side = 2 * math.ceil(1.15 * radius) + 3
            for shape in SHAPES:
                drawn, angles = _templates(shape, round(radius, 1), side)
                best = max((_overlap(mask, drawn, at), at) for at in _places(center, mean))
                (overlap, index), at = best
                found.append(Fit(overlap, shape, size, float(angles[index]), *at))
    return sorted(found, key=lambda fit: -fit.overlap)


def _places(center: tuple[float, float], mean: tuple[float, float]) -> list[tuple[float, float]]:
    """Centres to try: those of the box and of the mass, and beside them."""
    return [(x + dx, y + dy) for x, y in (center, mean) for dx in (-1.0, 0.0, 1.0) for dy in (-1.0, 0.0, 1.0)]


def _overlap(mask: Array, drawn: Array, at: tuple[float, float]) -> tuple[float, int]:
    """The best intersection over union of a mask and templates [n, side, side] at a place, and which."""
    side = drawn.shape[1]
    left, top = round(at[0] - (side - 1) / 2), round(at[1] - (side - 1) / 2)
    rows = slice(max(0, top), min(mask.shape[0], top + side))
    columns = slice(max(0, left), min(mask.shape[1], left + side))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return 0.0, 0
    seen = mask[rows, columns]
    part = drawn[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    shared = (part * seen).sum(axis=(1, 2))
    union = part.sum(axis=(1, 2)) + mask.sum() - shared
    score = shared / union
    index = int(score.argmax())
    return float(score[index]), index


def texture_of(luma: Array, mask: Array, fit: Fit) -> tuple[str, dict[str, float]]:
    """The texture of a thing, and how like each pattern it is.

    Args:
        luma: [H, W] brightness.
        mask: [H, W] bool, the thing.
    """
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    if inner.sum() < 12:
        inner = mask
    rows, columns = np.nonzero(inner)
    radius = fit.radius * math.sqrt(mask.size)
    px, py = (columns - fit.x_px) / radius, (rows - fit.y_px) / radius
    value = _without_shade(np.log(luma[inner].astype(np.float64) + 8.0), px, py)
    turns = np.radians(np.arange(0, 180, 5.0))
    found = {
        name: max(
            _alike(value, _without_shade(_pattern(name, px, py, float(turn), 1.0 / radius), px, py))
            for turn in turns
        )
        for name in ("striped", "dotted")
    }
    found["spread"] = float(value.std())
    return max(("striped", "dotted"), key=lambda name: found[name]), found


def _pattern(name: str, px: Array, py: Array, turn: float, pixel: float) -> Array:
    """The paint of a texture at places in radii from the centre, as the renderer draws it."""
    qx, qy = px * math.cos(turn) + py * math.sin(turn), -px * math.sin(turn) + py * math.cos(turn)
    if name == "striped":
        drawn: Array = np.clip(np.sin(qx * 7.5) / (7.5 * pixel) * 2, -1, 1)
        return drawn
    u, v = qx / 0.42, qy / 0.42
    dots = 0.27 - np.hypot(u - np.round(u), v - np.round(v))
    drawn = -np.clip(dots * 0.42 / pixel + 0.5, 0, 1)
    return drawn


def _without_shade(value: Array, px: Array, py: Array) -> Array:
    """What is left of a brightness when a smooth shade, a quadric of the place, is taken away."""
    basis = np.stack([np.ones_like(px), px, py, px * px, px * py, py * py], axis=1)
    weights, *_ = np.linalg.lstsq(basis, value, rcond=None)
    rest: Array = value - basis @ weights
    return rest


def _alike(one: Array, other: Array) -> float:
    scale = math.sqrt(float((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / scale if scale > 1e-9 else 0.0
