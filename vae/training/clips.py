"""Training clips in their own shapes: of the film world, of footage, of a dataset's kept clips.

Clips keep their shapes; footage is read at 256 x 256 pixels' worth at most. Training windows are cut from
these clips (`Windows`); that is the only cropping there is, encoding never crops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manifests.cli import say
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.tables import scans
from manifests.views import View
from media.apart.reader import Reader, probe
from media.errors import MediaError
from vae.pixels import as_float, to_video
from world.render import render_frame
from world.scene import sample_shot

MAX_FRAMES = 25
"""Frames kept of one clip: a training window is at most as long."""
MAX_PIXELS = 256 * 256


def _world_array(seed: int, num_frames: int = 17, side_px: tuple[int, int] = (64, 144)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(side_px[0], side_px[1] + 1, 2))
    fps, shot = (
        float(rng.choice([8, 12, 16, 24, 30])),
        sample_shot(int(rng.integers(1 << 31)), width / height, 2.0),
    )
    start = rng.uniform(0, 1.0)
    return np.stack([render_frame(shot, start + i / fps, width, height) for i in range(num_frames)])


def world_clip(seed: int, num_frames: int = 17, side_px: tuple[int, int] = (64, 144)) -> Tensor:
    """A random shot of the film world, [3, T, H, W] uint8, each side within `side_px`."""
    return to_video(list(_world_array(seed, num_frames, side_px)))


def world_clips(count: int, seed: int, workers: int = 2) -> list[Tensor]:
    """Clips of the film world, drawn by `workers` processes that do not touch torch."""
    seeds = [seed * 1_000_003 + index for index in range(count)]
    if workers < 2 or count < 32:
        return [world_clip(item) for item in seeds]
    with ProcessPoolExecutor(workers) as pool:
        return [to_video(list(found)) for found in pool.map(_world_array, seeds, chunksize=16)]


def read_part(
    path: str, start_s: float, end_s: float, max_frames: int = MAX_FRAMES, max_pixels: int = MAX_PIXELS
) -> Tensor | None:
    """[3, T, H, W] uint8: up to `max_frames` undamaged frames of one size; None without any.

    Raises:
        MediaError: the file cannot be read.
    """
    facts, frames = probe(path), list[np.ndarray]()
    for frame in Reader(facts, max_pixels, decoder="pyav").frames(start_s, end_s):
        if frames and frame.rgb.shape != frames[0].shape:  # a file may change its size midway
            break
        if not frame.is_damaged:
            frames.append(frame.rgb)
        if len(frames) >= max_frames:
            break
    return to_video(frames) if frames else None


def footage_clips(paths: Iterable[Path], per_file: int, seed: int) -> Iterator[Tensor]:
    """Parts of real files, at most 256 x 256 pixels; unreadable files are named and passed over."""
    for path in paths:
        rng = np.random.default_rng([seed, int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16)])
        try:
            length_s = probe(str(path)).duration_s
            for start_s in (
                [0.0, *sorted(rng.uniform(0, max(0.0, length_s - 1.0), per_file - 1))]
                if length_s > 2
                else [0.0]
            ):
                if (clip := read_part(str(path), start_s, start_s + 4.0)) is not None:
                    yield clip
        except MediaError as error:
            say(f"vae: passed over {path.name}: {error.reason}")


def dataset_clips(address: str, view_name: str, most: int, seed: int) -> Iterator[Tensor]:
    """Beginnings of the kept clips of a dataset's view, decoded from their sources.

    Raises:
        UsageError: the view keeps no clip.
    """
    dataset = Dataset(address)
    view = View.load(dataset, view_name)
    kept = view.kept(dataset)
    fields = ["clip_id", "uri", "start_s", "end_s"]
    rows = [
        row
        for row in scans.table(dataset, "clips", view.column("preview"), fields).to_pylist()
        if row["clip_id"] in kept
    ]
    if not rows:
        raise UsageError(address, f"view {view_name} keeps no clip", "Ingest footage first.")
    for index in np.random.default_rng(seed).permutation(len(rows))[:most]:
        row = rows[index]
        try:
            if (clip := read_part(row["uri"], row["start_s"], row["end_s"])) is not None:
                yield clip
        except MediaError as error:
            say(f"vae: passed over clip {row['clip_id']}: {error.reason}")


def fading(num_frames: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(colour [3, 1, 1, 1] in [-1, 1], how much is left of the picture [1, T, 1, 1]) of a fade.

    Half of the colours are black, a sixth white. Of half of the windows nothing is left; the others fade in
    or out, or stay half faded.
    """
    draw = rng.random()
    colour = [-1.0] * 3 if draw < 1 / 2 else [1.0] * 3 if draw < 2 / 3 else rng.uniform(-1, 1, 3).tolist()
    begin, end = (0.0, 0.0) if rng.random() < 1 / 2 else rng.uniform(-0.5, 1.0, 2).tolist()
    left = torch.linspace(begin, end, num_frames).clamp(0, 1)
    return torch.tensor(colour).reshape(3, 1, 1, 1), left.reshape(1, -1, 1, 1)


class Windows:
    """Training windows: batches of one shape, cut anywhere, each a function of (seed, step).

    A batch has about `budget` pixels: many small windows, or few long or large ones; one shape in six is of
    single frames, and some are of sizes off the grid, so that padding is met in training as in use.
    """

    SHAPES = ((9, 32, 32), (9, 32, 32), (17, 32, 32), (9, 40, 56), (17, 64, 64), (1, 64, 64))
    ODD_SHARE = 0.15

    def __init__(self, clips: list[Tensor], budget: int, seed: int, faded: float = 0.0) -> None:
        """faded: share of the windows that fade to one colour, or are nothing else."""
        self.clips, self.budget, self.seed, self.faded = clips, budget, seed, faded
        self._fitting: dict[tuple[int, int, int], list[int]] = {}

    def digest(self) -> str:
        """Names the data: a run is resumed on the same data or not at all."""
        seen = hashlib.sha256(f"{self.budget} {self.seed}".encode())
        for clip in self.clips:
            seen.update(repr(tuple(clip.shape)).encode())
            seen.update(clip[:, 0, 0].contiguous().numpy().tobytes())
        return seen.hexdigest()[:16]

    def _holding(self, shape: tuple[int, int, int]) -> list[int]:
        if shape not in self._fitting:
            held = [
                i
                for i, clip in enumerate(self.clips)
                if all(have >= want for have, want in zip(clip.shape[1:], shape, strict=True))
            ]
            self._fitting[shape] = held
        return self._fitting[shape]

    def at(self, step: int, rank: int = 0, processes: int = 1) -> Tensor:
        """[B, 3, T, H, W] in [-1, 1]: this process' part of the batch of a step.

        Raises:
            UsageError: no clip is as large as the smallest window.
        """
        rng = np.random.default_rng([self.seed, step])
        shapes = [shape for shape in self.SHAPES if self._holding(shape)]
        if not shapes:
            raise UsageError("VAE training", "has no clip of 32 x 32 pixels or more", "Give other footage.")
        shape = shapes[step % len(self.SHAPES) % len(shapes)]
        t, h, w = shape
        if rng.random() < self.ODD_SHARE:
            t, h, w = (
                max(1, t - int(rng.integers(0, 3))),
                h - int(rng.integers(0, 8)),
                w - int(rng.integers(0, 8)),
            )
        count = max(processes, self.budget // (shape[0] * shape[1] * shape[2]))
        windows = []
        for number, index in enumerate(rng.choice(self._holding(shape), count)):
            clip = self.clips[index]
            t0, h0, w0 = (
                int(rng.integers(0, have - want + 1))
                for have, want in zip(clip.shape[1:], (t, h, w), strict=True)
            )
            flips = [axis for axis in (1, 2, 3) if rng.random() < 0.5]
            fade = fading(t, rng) if self.faded and rng.random() < self.faded else None
            if number % processes == rank:
                window = as_float(clip[:, t0 : t0 + t, h0 : h0 + h, w0 : w0 + w].flip(flips))
                windows.append(window if fade is None else fade[0] + (window - fade[0]) * fade[1])
        return torch.stack(windows)
