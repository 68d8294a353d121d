"""Gradual transitions: fades and dissolves, told from motion by what they are, a blend.

In a dissolve every picture is a weighted sum of the last of one shot and the first of the next, and before
and after it the picture (nearly) stands.
So, for a picture with `k` frames on either side: the two ends differ and do not resemble each other; each
picture between them lies close to the line from one end to the other, and goes along it without jumps; just
outside, nothing moves along that line. Motion leaves the line: it shows neither a blend nor a stand. A fade
is a dissolve with a flat picture.

All of it follows from inner products of tiny pictures, so each is compared once with those in the window.
Memory is finite: a frame's verdict depends on `reach` frames before and after it and on nothing else, so
cutting a video into segments changes no verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SCALES_S = (0.15, 0.25, 0.4, 0.6)  # half lengths that are looked for
MIN_FPS, MAX_HALF_FRAMES = 6.0, 36
MIN_DIFFERENCE, MIN_DIFFERENCE_FADE = 0.07, 0.05  # root mean square between the ends, of 0..1
MAX_LIKENESS = 0.85  # correlation of the ends; above it they are one shot, brighter or darker
MAX_OFF_LINE, MAX_STEP, MAX_BACK = 0.19, 0.45, 0.08  # of the distance between the ends
MAX_MOVE_OUTSIDE, MAX_DRIFT, MAX_DRIFT_FADE = 0.2, 0.06, 0.2
FLAT_STD = 0.025
_INSIDE = (0.04, 0.96)  # share of the second end: pictures between are the transition
_TINY_PX = 12


def tiny(glance: np.ndarray) -> np.ndarray:
    """A glance [s, s, 3] uint8 as a vector of 12 x 12 blurred pixels, 0..1.

    Small motion hardly changes it.
    """
    small = cv2.resize(glance, (_TINY_PX, _TINY_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    return cv2.GaussianBlur(small, (3, 3), 0).ravel() / 255.0


def _spread(vector: np.ndarray) -> np.ndarray:
    pixels = vector.reshape(-1, 3)
    return pixels - pixels.mean(0)


@dataclass(frozen=True)
class Blend:
    """A transition around a frame: frames `begin` to `end` (not included) are a mixture of two shots."""

    begin: int
    end: int
    score: float


class Transitions:
    """Push tiny pictures in order; up to frame `settled` all transitions are known."""

    def __init__(self, fps: float) -> None:
        is_on = fps >= MIN_FPS
        self.halves = (
            sorted({min(MAX_HALF_FRAMES, max(2, round(fps * scale))) for scale in SCALES_S}) if is_on else []
        )
        self._most = max(self.halves, default=0)
        self._side = self._most + max(
            1, self._most // 2
        )  # frames on either side that a judgement of one frame looks at
        self.reach = self._side + 3 * self._most if is_on else 0
        self._size = 2 * self._side + 1
        self._vectors = np.zeros((self._size, _TINY_PX * _TINY_PX * 3), np.float32)
        self._products = np.zeros((self._size, self._size), np.float32)
        self._count = 0
        self._best: dict[int, Blend] = {}
        self.found: list[Blend] = []

    def push(self, vector: np.ndarray) -> None:
        """Take the next frame's tiny picture."""
        self._count += 1
        if not self.halves:
            return
        row = (self._count - 1) % self._size
        self._vectors[row] = vector
        self._products[row] = self._products[:, row] = self._vectors @ self._vectors[row]
        middle = self._count - 1 - self._side
        if middle >= 0:
            self._judge(middle)
            self._settle(middle - 2 * self._most)

    def finish(self) -> None:
        """No more frames: judge those whose sides are shorter now."""
        last = self._count - 1
        if self.halves:
            for middle in range(max(0, last - self._side + 1), last + 1):
                self._judge(middle)
            for middle in range(max(0, last - self._side + 1 - 2 * self._most), last + 1):
                self._settle(middle)

    def forget(self, before: int) -> None:
        """Drop what concerns only frames before `before`."""
        self.found = [blend for blend in self.found if blend.end > before]
        for frame in [frame for frame in self._best if frame < before - 4 * self._most]:
            del self._best[frame]

    def _settle(self, middle: int) -> None:
        """A candidate is a transition if none that overlaps it scores higher; of equals the first is."""
        blend = self._best.get(middle)
        if blend is None:
            return
        for step in range(-2 * self._most, 2 * self._most + 1):
            other = self._best.get(middle + step)
            if (
                step
                and other
                and other.begin < blend.end
                and blend.begin < other.end
                and (other.score, -step) > (blend.score, 0)
            ):
                return
        self.found.append(blend)

    def _distance2(self, first: int, second: int) -> float:
        own = self._products.item
        return max(0.0, own(first, first) + own(second, second) - 2 * own(first, second))

    def _judge(self, middle: int) -> None:
        best: Blend | None = None
        for half in self.halves:
            blend = self._blend(middle, half)
            if blend and (best is None or blend.score > best.score):
                best = blend
        if best:
            self._best[middle] = best

    def _blend(self, middle: int, half: int) -> Blend | None:  # noqa: PLR0911 - cheap reasons against it first
        """The transition of 2 x `half` frames around `middle`, if there is one."""
        outside = max(1, half // 2)
        if middle - half - outside < 0 or middle + half + outside >= self._count:
            return None
        size, products = self._size, self._products
        a, b = (middle - half) % size, (middle + half) % size
        before, after = (middle - half - outside) % size, (middle + half + outside) % size
        length2 = self._distance2(a, b)
        pixels = self._vectors.shape[1]
        if length2 < MIN_DIFFERENCE_FADE**2 * pixels:
            return None
        if max(self._distance2(before, a), self._distance2(after, b)) > MAX_MOVE_OUTSIDE**2 * length2:
            return None

        def along(rows: np.ndarray | int) -> np.ndarray:
            """How far pictures lie along the line from a to b, 0 to 1."""
            return (products[rows, b] - products[rows, a] - products[a, b] + products[a, a]) / length2

        spread_a, spread_b = _spread(self._vectors[a]), _spread(self._vectors[b])
        std_a, std_b = (float(np.sqrt((spread**2).mean())) for spread in (spread_a, spread_b))
        is_fade = min(std_a, std_b) < FLAT_STD
        drift = MAX_DRIFT_FADE if is_fade else MAX_DRIFT
        if not is_fade and length2 < MIN_DIFFERENCE**2 * pixels:
            return None
        if abs(float(along(before))) > drift or abs(float(along(after)) - 1) > drift:
            return None
        if not is_fade and float((spread_a * spread_b).mean()) / (std_a * std_b) > MAX_LIKENESS:
            return None
        rows = np.arange(middle - half + 1, middle + half) % size
        shares = along(rows)
        from_a2 = np.diagonal(products)[rows] + products[a, a] - 2 * products[rows, a]
        off_line = np.sqrt(np.maximum(from_a2 / length2 - shares**2, 0)).max()
        steps = np.diff(np.concatenate([[0.0], shares, [1.0]]))
        if off_line > MAX_OFF_LINE or steps.max() > MAX_STEP or steps.min() < -MAX_BACK:
            return None
        inside = np.nonzero((shares > _INSIDE[0]) & (shares < _INSIDE[1]))[0]
        if len(inside) < 2:
            return None
        begin, end = middle - half + 1 + int(inside[0]), middle - half + 2 + int(inside[-1])
        filled = (end - begin) / (2 * half - 1)
        if filled < 0.5 or abs((begin + end - 1) / 2 - middle) > max(1, half / 4):
            return None
        return Blend(begin, end, float(np.sqrt(length2 / pixels) * (1 - off_line) * filled))
