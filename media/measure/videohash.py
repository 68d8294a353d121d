"""A perceptual hash of a clip: one small bar-free colour thumbnail a frame, compared along time.

Each frame is cropped to the box that is free of black bars, squeezed to 12 x 12 cells (area average) and kept
as Y, Cr, Cb bytes; with them go the frames' times and the box's aspect ratio. Scale, encoder and the cut of
the bars drop out there; brightness and contrast drop out on comparison, where each thumbnail is centred and
divided by its own contrast.

Two clips are compared at every offset in time at which the shorter lies (nearly) within the longer. Between
two samples a thumbnail is blended linearly, so that copies sampled out of phase meet. What counts is the
worst part of the picture, not the mean: two shots of one set differ only where the objects are. The
difference is averaged over 2 x 2 cells before it is squared, so that coding noise and edges a little aside
cancel.

The 64 bits a frame that a search needs are the signs of low DCT coefficients of the thumbnail (as pHash:
Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010), each with its margin.

Where something bright stands before black, nothing tells a bar from the scene: then the clip is kept twice,
with the doubtful black and without.

Byte format "rvh1", little endian: magic 4 bytes, views uint8 (1 or 2), frames uint16, times float32 [n] in
seconds from the clip's first frame; then for each view its aspect float32 and thumbnails uint8 [n, 12, 12,
3].
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MAGIC = b"rvh1"
GRID = 12
"""Cells per side of a thumbnail."""
FLAT_STD = 3.0
"""A frame whose cells vary less than this (of 255) is flat: black, one colour. It says nothing."""
CONTRAST_FLOOR = 60.0
"""Added to a frame's contrast (of 255) before dividing by it, so that noise in dull pictures stays small."""
CHROMA_WEIGHT = 1.5
SAME = 0.2
"""Clips at this distance or nearer are taken for copies."""
MIN_CORRELATION = 0.85
"""Luma of copies correlates at least this much; it tells dull pictures apart, whose differences are all
small."""
ASPECT_RATIO = 1.2
"""Bar-free pictures whose aspects differ by more than this factor are never copies."""
ROUGH_MAX = 6.0
"""Mean squared distance of the coefficients beyond which no copy was ever seen (the most: 2.7); saves the
exact comparison."""
OFFSET_STEP_S, SLACK_S = 1 / 16, 0.26
_BAR_LEVEL, _BAR_LIT_SHARE = 20, 0.5


@dataclass(frozen=True, eq=False)
class View:
    """A clip's hash. Times [n] float32 from 0, cells [n, 12, 12, 3] uint8 (Y, Cr, Cb), and the aspect."""

    aspect: float
    times_s: np.ndarray
    cells: np.ndarray

    @functools.cached_property
    def is_flat(self) -> np.ndarray:
        """[n] bool: frames without information."""
        return self.cells.reshape(len(self.cells), -1, 3).astype(np.float32).var(1).sum(-1) < FLAT_STD**2

    @functools.cached_property
    def normal(self) -> np.ndarray:
        """[n, 12, 12, 3] float32: luma centred, all divided by the frame's luma contrast plus the floor."""
        planes = self.cells.astype(np.float32)
        luma = planes[..., 0]
        scale = luma.std((1, 2))[:, None, None, None] + CONTRAST_FLOOR
        planes[..., 0] -= luma.mean((1, 2), keepdims=True)
        planes[..., 1:] = (planes[..., 1:] - 128) * CHROMA_WEIGHT
        return planes / scale

    @functools.cached_property
    def coefficients(self) -> np.ndarray:
        """[n, 64] float32: low orthonormal DCT coefficients, 44 of luma (no mean) and 10 of each chroma."""
        basis = _dct()
        rows = np.einsum("ui,nijc,vj->nuvc", basis, self.normal, basis, optimize=True)
        luma, chroma = _low(45)[1:], _low(10)
        parts = [
            rows[:, luma[:, 0], luma[:, 1], 0],
            rows[:, chroma[:, 0], chroma[:, 1], 1],
            rows[:, chroma[:, 0], chroma[:, 1], 2],
        ]
        return np.concatenate(parts, 1).astype(np.float32)


def coefficients_of(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `View.coefficients` and `View.is_flat` say of thumbnails [n, 12, 12, 3], of many clips at once.

    Returns:
        [n, 64] float32, equal within rounding, and [n] bool.
    """
    found, flat = [np.zeros((0, 64), np.float32)], [np.zeros(0, bool)]
    weights, shift = _projection()
    for begin in range(0, len(cells), 1 << 13):
        rows = cells[begin : begin + (1 << 13)].reshape(-1, GRID * GRID, 3).astype(np.float32)
        mean = rows.mean(1)
        variance = np.maximum((rows * rows).mean(1) - mean * mean, 0)
        flat.append(variance.sum(1) < FLAT_STD**2)
        scale = np.sqrt(variance[:, 0]) + CONTRAST_FLOOR
        values = rows.reshape(len(rows), -1) @ weights - shift
        found.append((values / scale[:, None]).astype(np.float32))
    return np.concatenate(found), np.concatenate(flat)


@functools.cache
def _projection() -> tuple[np.ndarray, np.ndarray]:
    """[432, 64] from cells to coefficients times contrast, and [64] what is taken off."""
    basis = _dct()
    luma, chroma = _low(45)[1:], _low(10)
    weights = np.zeros((GRID, GRID, 3, 64), np.float32)
    places = [(pair, 0, 1.0) for pair in luma]
    places += [(pair, plane, CHROMA_WEIGHT) for plane in (1, 2) for pair in chroma]
    for column, ((u, v), plane, weight) in enumerate(places):
        weights[:, :, plane, column] = weight * np.outer(basis[u], basis[v])
    shift = 128 * weights[:, :, 1:].sum((0, 1, 2))
    return weights.reshape(-1, 64), shift


@dataclass(frozen=True, eq=False)
class VideoHash:
    """A clip's one view, or two where its bars are in doubt; all of the same times."""

    views: tuple[View, ...]

    @property
    def times_s(self) -> np.ndarray:
        """[n] float32, rising from 0."""
        return self.views[0].times_s

    def to_bytes(self) -> bytes:
        head = (
            MAGIC
            + struct.pack("<BH", len(self.views), len(self.times_s))
            + self.times_s.astype("<f4").tobytes()
        )
        return head + b"".join(struct.pack("<f", view.aspect) + view.cells.tobytes() for view in self.views)

    @classmethod
    def from_bytes(cls, data: bytes) -> VideoHash:
        if data[:4] != MAGIC or len(data) < 7:
            raise ValueError(f"not a video hash of this version ({MAGIC.decode()}): starts with {data[:4]!r}")
        count, frames = struct.unpack_from("<BH", data, 4)
        size, at = 3 * GRID * GRID * frames, 7 + 4 * frames
        if not count or not frames or len(data) != at + count * (4 + size):
            raise ValueError(f"video hash of {count} views of {frames} frames has {len(data)} bytes")
        times = np.frombuffer(data, "<f4", frames, 7).astype(np.float32)
        views = []
        for place in range(at, len(data), 4 + size):
            cells = np.frombuffer(data, np.uint8, size, place + 4).reshape(frames, GRID, GRID, 3)
            views.append(View(struct.unpack_from("<f", data, place)[0], times, cells))
        return cls(tuple(views))


@functools.cache
def _dct() -> np.ndarray:
    """[12, 12] orthonormal DCT-II, frequency by position."""
    frequency, position = np.arange(GRID)[:, None], np.arange(GRID)[None]
    basis = np.cos(np.pi * frequency * (position + 0.5) / GRID) * np.sqrt(2 / GRID)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


@functools.cache
def _low(count: int) -> np.ndarray:
    """The `count` lowest (vertical, horizontal) frequencies, by their sum."""
    pairs = sorted(((u, v) for u in range(GRID) for v in range(GRID)), key=lambda pair: (sum(pair), pair))
    return np.array(pairs[:count])


def bar_free_boxes(frames: Sequence[np.ndarray]) -> list[tuple[int, int, int, int]]:
    """(top, bottom, left, right) of the picture inside black bars; a second box if in doubt.

    A bar ends at a straight edge: just inside, at least half of the line lights up at some time. The second
    box is free of all black at its sides.
    """
    lit = cv2.blur(functools.reduce(np.maximum, frames).max(2), (3, 3)) > _BAR_LEVEL
    if not lit.any():
        return [(0, lit.shape[0], 0, lit.shape[1])]
    sure: list[int] = []
    tight: list[int] = []
    for lines in (lit, lit.T):
        size = len(lines)
        rows, across = np.nonzero(lines.any(1))[0], np.nonzero(lines.any(0))[0]
        shares = lines[:, across[0] : across[-1] + 1].mean(1)
        low, high = int(rows[0]), int(rows[-1]) + 1
        inner = (
            low + 1 if low > 0 else 0,
            high - 1 if high < size else size,
        )  # the blur spread the picture by one
        inner = inner if inner[1] - inner[0] >= 4 else (0, size)
        tight += inner
        sure.append(inner[0] if shares[min(low + 2, size - 1)] >= _BAR_LIT_SHARE else 0)
        sure.append(inner[1] if shares[max(high - 3, 0)] >= _BAR_LIT_SHARE else size)
    boxes = [(sure[0], sure[1], sure[2], sure[3]), (tight[0], tight[1], tight[2], tight[3])]
    return boxes if boxes[0] != boxes[1] else boxes[:1]


def video_hash(frames: Sequence[np.ndarray], times_s: Sequence[float]) -> VideoHash:
    """The hash of a clip from frames [H, W, 3] uint8 RGB of one size and their times in seconds.

    Four frames a second serve well; two find fewer trimmed copies.
    """
    if not len(frames) or len(frames) != len(times_s):
        raise ValueError(f"a video hash needs frames and as many times, got {len(frames)} and {len(times_s)}")
    times = (np.asarray(times_s, np.float64) - times_s[0]).astype(np.float32)
    views = []
    for top, bottom, left, right in bar_free_boxes(frames):
        cells = [
            cv2.resize(rgb[top:bottom, left:right], (GRID, GRID), interpolation=cv2.INTER_AREA)
            for rgb in frames
        ]
        planes = np.stack([cv2.cvtColor(cell, cv2.COLOR_RGB2YCrCb) for cell in cells])
        views.append(View(float(np.float32((right - left) / (bottom - top))), times, planes))
    return VideoHash(tuple(views))


def _places(times_s: np.ndarray, at_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample before, sample after and the weight of the latter, for times `at_s` of any shape.

    Times outside are held at the ends.
    """
    last = len(times_s) - 1
    at_s = np.clip(at_s, times_s[0], times_s[-1])
    before = np.clip(np.searchsorted(times_s, at_s, side="right") - 1, 0, max(last - 1, 0))
    after = np.minimum(before + 1, last)
    gap = np.maximum(times_s[after] - times_s[before], 1e-6)
    return before, after, ((at_s - times_s[before]) / gap).astype(np.float32)


def _rough(short: View, long: View, offsets_s: np.ndarray) -> np.ndarray:
    """[offsets]: mean squared distance of coefficients, the long clip interpolated."""
    a, b = short.coefficients, long.coefficients
    cross, own = a @ b.T, (b * b).sum(1)
    next_to = np.append((b[:-1] * b[1:]).sum(1), 0.0)
    before, after, share = _places(long.times_s, short.times_s[None] + offsets_s[:, None])
    rows, rest = np.arange(len(a))[None], 1 - share
    dot = rest * cross[rows, before] + share * cross[rows, after]
    size = (
        rest**2 * own[before]
        + share**2 * own[after]
        + 2 * share * rest * np.where(after > before, next_to[before], own[before])
    )
    return ((a * a).sum(1)[None] + size - 2 * dot).mean(1)


def _aligned(short: View, long: View, offset_s: float) -> float:
    """Distance at one offset: root mean square of the four worst places, over frames with content."""
    pairs = []
    for one, other, shift in ((short, long, offset_s), (long, short, -offset_s)):
        at = one.times_s + np.float32(shift)
        inside = (
            (at >= other.times_s[0] - SLACK_S) & (at <= other.times_s[-1] + SLACK_S)
            if one is short
            else (at >= 0) & (at <= other.times_s[-1])
        )
        before, after, share = _places(other.times_s, at[inside])
        share = share[:, None, None, None]
        first, second = other.normal[before], other.normal[after]
        choices = np.stack(
            [first * (1 - share) + second * share, first, second]
        )  # a cut between two samples is not to be blended over
        nearest = ((choices - one.normal[inside]) ** 2).sum((2, 3, 4)).argmin(0)
        blended = choices[nearest, np.arange(len(nearest))]
        tells = ~(one.is_flat[inside] & other.is_flat[before] & other.is_flat[after])
        pairs.append((one.normal[inside][tells], blended[tells], (~one.is_flat[inside]).sum()))
    if pairs[0][2] == 0 or not len(pairs[0][0]):
        return float("inf")
    a, b = np.concatenate([pairs[0][0], pairs[1][0]]), np.concatenate([pairs[0][1], pairs[1][1]])
    x, y = a[..., 0].ravel(), b[..., 0].ravel()
    if float(x @ y) < MIN_CORRELATION * float(np.sqrt((x @ x) * (y @ y))) or not (x @ x) * (y @ y) > 0:
        return float("inf")
    gap = a - b
    patches = (gap[:, :-1, :-1] + gap[:, 1:, :-1] + gap[:, :-1, 1:] + gap[:, 1:, 1:]) / 4
    places = (patches**2).sum(-1).mean(0).ravel()
    return float(np.sqrt(np.partition(places, -4)[-4:].mean()))


def _view_distance(a: View, b: View) -> float:
    if max(a.aspect, b.aspect) > ASPECT_RATIO * min(a.aspect, b.aspect) or a.is_flat.all() or b.is_flat.all():
        return float("inf")
    is_first_shorter = a.times_s[-1] < b.times_s[-1] or (
        a.times_s[-1] == b.times_s[-1] and (a.aspect, a.cells.tobytes()) <= (b.aspect, b.cells.tobytes())
    )
    short, long = (a, b) if is_first_shorter else (b, a)
    room = max(float(long.times_s[-1] - short.times_s[-1]), 0.0)
    offsets = (
        np.arange(-round(SLACK_S / OFFSET_STEP_S), int((room + SLACK_S) / OFFSET_STEP_S) + 2) * OFFSET_STEP_S
    )
    rough = _rough(short, long, offsets)
    best = int(rough.argmin())
    if rough[best] > ROUGH_MAX:
        return float("inf")
    near = [index for index in (best - 1, best, best + 1) if 0 <= index < len(offsets)]
    return min(_aligned(short, long, float(offsets[index])) for index in near)


def distance(a: VideoHash, b: VideoHash) -> float:
    """Distance of two clips, one perhaps a part of the other.

    0: the same; up to `SAME`: copies; infinite: nothing fits.
    """
    return min(_view_distance(one, two) for one in a.views for two in b.views)
