"""Global motion between two pictures: a similarity (shift, zoom, roll) and its share of agreement.

The picture is cut into square cells. Each cell is a quadratic of the motion: how much of its luma would not
fit. A cell has one vote whatever its contrast, so a bright object does not outvote a faint background, and a
striped cell leaves the direction along its stripes open. Starting points come from the cells themselves, from
both pictures' spectra and from the pair before; the answer is the one on which most of the picture, from all
over it, agrees.

Lengths are shares of the whole picture's height, from its centre, y down. A state is [6]: tx, ty, a (scale -
1), b (turn, radians), gain (of 64 luma steps), offset (luma steps). It says where a point of the first
picture lies in the second: X + t + aX + b rot X.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

Array = np.ndarray

NUM_CELLS = 140  # about this many cells vote
NOISE = 1.0  # luma steps: texture below it has little say
SLACK = 0.1  # share of the noise that costs nothing
REACH_PX = 0.25  # a cell that is this far off counts half
SAME = 0.004  # states this close are one
_DIAGONAL = np.arange(6)


class _Level:
    """One size of a pyramid, cut into square cells: where its pixels lie in the whole picture.

    Args:
        shape: height, width of the picture in pixels.
        box: top, bottom, left, right of the part that is aligned.
        cells: rows, columns of cells.
        side_px: side of a cell at this level.
    """

    def __init__(
        self, shape: tuple[int, int], box: tuple[int, int, int, int], cells: tuple[int, int], side_px: int
    ) -> None:
        (height, width), (top, bottom, left, right) = shape, box
        self.cells, self.side = cells, side_px
        self.height, self.width = cells[0] * side_px, cells[1] * side_px
        sx, sy = self.width / (right - left), self.height / (bottom - top)
        self.kx, self.ky = height * sx, height * sy  # level pixels per picture height
        self.ox, self.oy = (
            (width / 2 - left) * sx - 0.5,
            (height / 2 - top) * sy - 0.5,
        )  # the picture's centre in level pixels
        self.x = ((np.arange(self.width, dtype=np.float32) - self.ox) / self.kx)[None]
        self.y = ((np.arange(self.height, dtype=np.float32) - self.oy) / self.ky)[:, None]

    def split(self, planes: Array) -> Array:
        """[height, width, n] in cells: [cells, pixels of a cell, n]."""
        (rows, columns), side = self.cells, self.side
        return (
            planes.reshape(rows, side, columns, side, -1)
            .swapaxes(1, 2)
            .reshape(rows * columns, side * side, -1)
        )

    def warp(self, image: Array, motion: Array) -> Array:
        """`image` moved back by `motion` (tx, ty, a, b): out(X) = image(X + t + aX + b rot X).

        Far below 0 outside of the picture.
        """
        tx, ty, a, b = (float(value) for value in motion)
        across, down = -b * self.kx / self.ky, b * self.ky / self.kx
        matrix = np.array(
            [
                [1 + a, across, self.kx * tx - a * self.ox - across * self.oy],
                [down, 1 + a, self.ky * ty - down * self.ox - a * self.oy],
            ]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(
            image,
            matrix,
            (self.width, self.height),
            flags=flags,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=-1e4,
        )


class _Fit:
    """A pair at one level.

    Every cell knows, as a quadratic of the step from where the pair stands, how much of its luma would not
    fit.

    `first`, `second`: [height, width] float32 at the level's size.
    """

    def __init__(self, level: _Level, first: Array, second: Array) -> None:
        self.level, self.first, self.second = level, first, second
        gx = cv2.Sobel(first, cv2.CV_32F, 1, 0, ksize=3, scale=level.kx / 8)
        gy = cv2.Sobel(first, cv2.CV_32F, 0, 1, ksize=3, scale=level.ky / 8)
        self.tone = (first - first.mean()) / 64
        planes = np.stack(
            [
                gx,
                gy,
                gx * level.x + gy * level.y,
                gy * level.x - gx * level.y,
                -self.tone,
                np.full_like(first, -1.0),
            ],
            2,
        )
        self.columns = level.split(planes).swapaxes(1, 2)  # [cells, 6, pixels]
        self.normal = self.columns @ self.columns.swapaxes(1, 2)  # [cells, 6, 6]
        self.flat = self.normal.reshape(-1, 36)
        self.flat_shift = np.ascontiguousarray(self.normal[:, [0, 0, 1], [0, 1, 1]].T)  # [3, cells]
        texture = (
            self.normal[:, 0, 0] / level.kx**2 + self.normal[:, 1, 1] / level.ky**2
        )  # squared luma steps per pixel of motion
        pixels = level.side**2
        self.votes = texture / (texture + NOISE**2 * pixels)
        self.slack = SLACK * NOISE**2 * pixels
        self.unit = REACH_PX**2 * texture + SLACK * NOISE**2 * pixels
        self.state = np.zeros(6)
        rows, columns = level.cells
        at = np.stack(np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-1, 1, rows)), -1).reshape(-1, 2)
        self.at = at / at.std(0)

    def stand(self, state: Array) -> None:
        """Linearise at `state`."""
        self.state = state
        warped = self.level.warp(self.second, state[:4])
        left = warped - self.first
        if state[4] or state[5]:
            left -= np.float32(state[4]) * self.tone + np.float32(state[5])
        cells = self.level.split(left)
        seen = cells.min((1, 2)) > -500
        cells[~seen] = 0
        self.pull = -(self.columns @ cells)[..., 0]  # [cells, 6]
        self.energy = (cells * cells).sum((1, 2))
        self.weight = self.votes * seen
        self.total = max(float(self.weight.sum()), 1e-6)

    def held(self, step: Array, ease: float = 1.0) -> Array:
        """How well each cell agrees [cells], 0 to 1, after `step` [6]."""
        step = step.astype(np.float32)
        wrong = self.energy - 2 * (self.pull @ step) + self.flat @ np.outer(step, step).ravel() - self.slack
        return 1 / (1 + np.maximum(wrong, 0) / (ease * ease * self.unit))

    def held_shifts(self, shifts: Array) -> Array:
        """The same for many shifts [n, 2] at once: [n, cells]."""
        x, y = shifts.astype(np.float32).T
        terms = np.stack([-2 * x, -2 * y, x * x, 2 * x * y, y * y], 1)
        wrong = terms @ np.concatenate([self.pull[:, :2].T, self.flat_shift]) + (self.energy - self.slack)
        return 1 / (1 + np.maximum(wrong, 0) / self.unit)

    def score(self, held: Array) -> Array:
        """Share of the textured picture that agrees, [steps]."""
        return held @ self.weight / self.total

    def extent(self, held: Array) -> float:
        """How far over the picture the agreeing cells are spread, 0 to 1: a background is everywhere."""
        weight = self.weight * held**2
        total = weight.sum() + 1e-6
        middle = weight @ self.at / total
        spread = np.sqrt(np.maximum(weight @ self.at**2 / total - middle**2, 0))
        return float(np.sqrt(np.minimum(spread, 1).prod()))

    def shifts(self, step: Array | None = None) -> Array:
        """[cells, 2]: the shift that each cell still needs after `step` [6]; near 0 without texture."""
        pull = (
            self.pull[:, :2]
            if step is None
            else self.pull[:, :2] - self.normal[:, :2] @ step.astype(np.float32)
        )
        rows, columns = self.level.cells
        terms = np.concatenate([self.normal[:, [0, 0, 1], [0, 1, 1]], pull], 1).reshape(rows, columns, 5)
        sums = (
            cv2.boxFilter(terms, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
            .reshape(-1, 5)
            .astype(np.float64)
        )
        xx, xy, yy, px, py = sums.T
        floor = 0.3 * NOISE**2 * 9 * self.level.side**2 * self.level.ky**2
        xx, yy = xx + floor, yy + floor
        determinant = xx * yy - xy * xy
        return np.stack([(yy * px - xy * py) / determinant, (xx * py - xy * px) / determinant], 1)

    def solve(self, step: Array, eases: tuple[float, ...], stiff: float) -> tuple[Array, float]:
        """Reweighted least squares from `step` [6] where the pair stands, one round an ease.

        Returns the step and its score times extent.
        """
        ridge = np.array([10.0, 10.0, stiff, stiff, 3000, 300])
        for ease in eases:
            weights = self.weight * self.held(step, ease) ** 2 / self.unit
            matrix = (weights @ self.flat).reshape(6, 6).astype(np.float64)
            matrix[_DIAGONAL, _DIAGONAL] += ridge
            pull = weights @ self.pull - ridge * np.array([0, 0, 0, 0, *self.state[4:]])
            step = np.linalg.solve(matrix, pull)
        held = self.held(step)
        return step, float(self.score(held)) * self.extent(held)


class Aligner:
    """Aligns pairs of one clip's frames.

    `shape`: height, width in pixels; `box`: top, bottom, left, right of what is not bars.
    """

    def __init__(self, shape: tuple[int, int], box: tuple[int, int, int, int]) -> None:
        self.box = box
        top, bottom, left, right = box
        side = math.sqrt((bottom - top) * (right - left) / NUM_CELLS)
        rows, columns = (max(4, round(length / side)) for length in (bottom - top, right - left))
        self.levels = fine, _ = _Level(shape, box, (rows, columns), 8), _Level(shape, box, (rows, columns), 4)
        self.window = (
            np.minimum(1, 6 * np.hanning(fine.height))[:, None]
            * np.minimum(1, 6 * np.hanning(fine.width))[None]
        )
        self.window = self.window.astype(np.float32)
        down, across = np.fft.fftfreq(fine.height)[:, None], np.fft.rfftfreq(fine.width)[None]
        self.lowpass = np.exp(-20 * (down**2 + across**2)).astype(np.float32)

    def prepare(self, luma: Array) -> list[Array]:
        """The picture [H, W] uint8 at both levels, float32 and a little blurred, and its spectrum."""
        top, bottom, left, right = self.box
        pictures: list[Array] = []
        image: Array = luma[top:bottom, left:right].astype(np.float32)
        for level in self.levels:
            image = cv2.resize(image, (level.width, level.height), interpolation=cv2.INTER_AREA)
            pictures.append(cv2.GaussianBlur(image, (0, 0), 0.9))
        return [*pictures, np.fft.rfft2((pictures[0] - pictures[0].mean()) * self.window)]

    def _jumps(self, first: Array, second: Array, count: int) -> list[Array]:
        """Shifts that two spectra ask for, strongest first, as states."""
        level = self.levels[0]
        cross = np.conj(first) * second
        size = np.abs(cross)
        surface = np.fft.irfft2(
            cross / (size + size.mean() * 0.01 + 1e-6) * self.lowpass, s=(level.height, level.width)
        )
        found = []
        for _ in range(count):
            row, column = divmod(int(np.argmax(surface)), level.width)
            surface[
                np.ix_(
                    np.arange(row - 1, row + 2) % level.height,
                    np.arange(column - 1, column + 2) % level.width,
                )
            ] = -1.0
            dy, dx = (
                (at + side // 2) % side - side // 2
                for at, side in ((row, level.height), (column, level.width))
            )
            found.append(np.array([dx / level.kx, dy / level.ky, 0, 0, 0, 0]))
        return found

    def _ask_cells(self, fit: _Fit, start: Array) -> list[tuple[float, Array]]:
        """Scored motions that cells vote for, from `start`: its place and the two most wanted shifts."""
        fit.stand(start)
        shifts = fit.shifts()
        scores = fit.held_shifts(shifts) @ fit.weight
        steps = [np.zeros(6)]
        for _ in range(2):
            top = int(np.argmax(scores))
            steps.append(np.array([*shifts[top], 0, 0, 0, 0]))
            scores[np.abs(shifts - shifts[top]).max(1) < 0.01] = -1.0
        return [
            (score, start + step) for step, score in (fit.solve(step, (1.5, 1.0, 1.0), 1e3) for step in steps)
        ]

    def align(
        self, first: list[Array], second: list[Array], guess: Array
    ) -> tuple[list[tuple[float, Array]], float, float]:
        """Motion from `first` to `second` (as `prepare` gives them), with `guess` [6] as one start.

        Returns:
            one or two states with their agreement 0 to 1, best first; the mean motion that the best one
            leaves, heights; the share of the picture that has texture.
        """
        fine, middle = (_Fit(*parts) for parts in zip(self.levels, first[:2], second[:2], strict=True))
        starts = [np.zeros(6)] + ([guess] if np.abs(guess).max() > SAME else [])
        pool = [found for start in starts for found in self._ask_cells(middle, start)]
        pool = distinct(pool, 3) + [(0.0, state) for state in starts + self._jumps(first[2], second[2], 2)]
        tried = []
        for _, state in distinct(pool, 7):
            fine.stand(state)
            tried.append((float(fine.score(fine.held(np.zeros(6), 2.0))), state))
        solved = []
        for _, state in distinct(tried, 2):
            fine.stand(state)
            step, score = fine.solve(np.zeros(6), (2.0, 1.5, 1.0), 1e2)
            solved.append((score, state + step))
        (_, state), *rest = distinct(solved, 2)
        fine.stand(state)
        step, score = fine.solve(np.zeros(6), (1.0, 1.0), 1e2)
        left = np.hypot(*fine.shifts(step).T)
        return [(score, state + step), *rest], float((left * fine.weight).mean()), float(fine.votes.mean())


def distinct(pool: list[tuple[float, Array]], count: int) -> list[tuple[float, Array]]:
    """The best `count` of scored states that are not the same motion."""
    kept: list[tuple[float, Array]] = []
    for score, state in sorted(pool, key=lambda found: -found[0]):
        if len(kept) < count and all(np.abs(state[:4] - other[:4]).max() > SAME for _, other in kept):
            kept.append((score, state))
    return kept
