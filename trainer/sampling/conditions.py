"""What is given of a canvas: pixels or latents, where they lie, and how much of them is kept.

Every feature is a way to fill in conditions. A condition of strength s begins at noise level 1 - s: at 1 it
is kept, its latents bit-equal and its pixels returned as they came; at 0 it is noise like the rest.

Shape legend: T frames, H W pixels of the canvas; C t h w its latent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manifests.errors import UsageError
from trainer.sampling.canvas import Canvas
from vae.grid import Factors
from vae.pixels import as_float
from vae.protocol import VAE

AT_ONCE = 16
"""Frames that are encoded in one go."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Given content.

    Attributes:
        frames: [n, H, W, 3] uint8 of the canvas's size, or None where latents are given.
        latents: [C, n, h, w] in the VAE's units.
        start: the first frame, or the first latent, that is given.
        strength: 1 kept .. 0 only a start.
        box: [H, W] bool, which pixels are given; None: all. Of pixels only.
        is_held: the content stands for all frames of the latents it lies in, as a still picture does; only
            the frames themselves are returned as they came.
    """

    frames: Tensor | None = None
    latents: Tensor | None = None
    start: int = 0
    strength: float = 1.0
    box: Tensor | None = None
    is_held: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise UsageError(f"strength {self.strength}", "is not from 0 to 1")
        if (self.frames is None) == (self.latents is None):
            raise UsageError("a condition", "needs either frames or latents")

    @property
    def given(self) -> Tensor:
        """The frames of a condition that has some."""
        assert self.frames is not None
        return self.frames


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where sampling of a canvas begins.

    Attributes:
        latent: [C, t, h, w] in the VAE's units; ignored where the level is 1.
        level: [t, h, w] noise level each cell begins at: 0 kept, 1 made anew.
    """

    latent: Tensor
    level: Tensor

    def window(self, start: int, count: int) -> Start:
        """The part for `count` latents from `start` on."""
        part = slice(start, start + count)
        return Start(latent=self.latent[:, part], level=self.level[part])


@dataclass(frozen=True)
class Pasted:
    """Pixels that are returned as they came."""

    frame: int
    pixels: Tensor  # [H, W, 3] uint8
    box: Tensor | None  # [H, W] bool; None: the whole frame


def place(canvas: Canvas, conditions: Sequence[Condition], vae: VAE) -> Start | None:
    """Lay conditions on a canvas. Pixels are encoded once, as they stand in it; None for no condition.

    Where a frame is not given, the nearest given one stands in for it while the canvas is encoded: a latent
    is kept only if all its frames are given, but it also depends on those before.
    """
    if not conditions:
        return None
    size = canvas.latent_size(vae.factors)
    latent, level = torch.zeros(vae.latent_channels, *size), torch.ones(size)
    pixels = [condition for condition in conditions if condition.frames is not None]
    if pixels:
        for condition in pixels:
            _check(canvas, condition)
        level = torch.stack([_cell_levels(canvas, pixels, index, vae.factors) for index in range(size[0])])
        latent = _encoded(canvas, pixels, vae)
    for condition in conditions:
        if condition.latents is not None:
            part = slice(condition.start, condition.start + condition.latents.shape[1])
            if condition.latents.shape != latent[:, part].shape:
                raise UsageError(
                    f"latents of shape {tuple(condition.latents.shape)}",
                    f"do not lie in a canvas of {tuple(latent.shape)} from latent {condition.start} on",
                )
            latent[:, part], level[part] = condition.latents, 1 - condition.strength
    return Start(latent=latent, level=level)


def pasted(conditions: Sequence[Condition]) -> list[Pasted]:
    """The pixels of kept conditions, to be returned as they came."""
    return [
        Pasted(condition.start + index, frame, condition.box)
        for condition in conditions
        if condition.frames is not None and condition.strength == 1.0
        for index, frame in enumerate(condition.frames)
    ]


def _check(canvas: Canvas, condition: Condition) -> None:
    frames, last = condition.given, condition.start + len(condition.given)
    if frames.shape[1:] != (canvas.height_px, canvas.width_px, 3) or not (
        0 <= condition.start < last <= canvas.num_frames
    ):
        raise UsageError(
            f"frames {condition.start} to {last - 1} of {frames.shape[2]} x {frames.shape[1]} pixels",
            f"do not lie in a canvas of {canvas.num_frames} frames of {canvas.width_px} x {canvas.height_px}",
        )


def _cell_levels(canvas: Canvas, conditions: Sequence[Condition], index: int, factors: Factors) -> Tensor:
    """The level [h, w] of each cell of a latent frame: the highest of its pixels, padding left out."""
    span = canvas.frames_of(index, factors[0])
    levels = torch.ones(len(span), canvas.height_px, canvas.width_px)
    for condition in conditions:
        value = torch.full(levels.shape[1:], 1 - condition.strength)
        if condition.box is not None:
            value = torch.where(condition.box, value, 1.0)
        given = [condition.start <= frame < condition.start + len(condition.given) for frame in span]
        if condition.is_held and any(given):
            given = [True] * len(span)
        for level, is_given in zip(levels, given, strict=True):
            if is_given:
                level.copy_(torch.minimum(level, value))
    _, h, w = canvas.latent_size(factors)
    pad = (0, w * factors[2] - canvas.width_px, 0, h * factors[1] - canvas.height_px)
    return F.max_pool2d(F.pad(levels.amax(0), pad)[None], factors[1:])[0]


def _frame_at(conditions: Sequence[Condition], index: int) -> Tensor:
    """A frame [H, W, 3] uint8 of a canvas: the given one, or the nearest in time that is given."""
    places = [
        (min(max(index, condition.start), condition.start + len(condition.given) - 1), condition)
        for condition in conditions
    ]
    least = min(abs(place - index) for place, _ in places)
    nearest = [
        condition.given[place - condition.start] for place, condition in places if abs(place - index) == least
    ]
    boxes = [condition.box for place, condition in places if abs(place - index) == least]
    frame = nearest[0]
    for other, box in zip(nearest[1:], boxes[1:], strict=True):
        frame = other if box is None else torch.where(box[..., None], other, frame)
    return frame


def _encoded(canvas: Canvas, conditions: Sequence[Condition], vae: VAE) -> Tensor:
    """The latent mean [C, t, h, w] of a canvas, zero after the last latent of which something is given."""
    size = canvas.latent_size(vae.factors)
    last = max(condition.start + len(condition.given) for condition in conditions)
    count = next(
        index
        for index in range(1, size[0] + 1)
        if index == size[0] or last <= canvas.frames_of(index, vae.factors[0]).start
    )
    end = canvas.frames_of(count - 1, vae.factors[0]).stop
    frames = (_frame_at(conditions, index) for index in range(end))
    if canvas.begins == "group":  # a loop: its end lies before its beginning
        lead = vae.factors[0] + 1
        before = (_frame_at(conditions, index % canvas.num_frames) for index in range(-lead, 0))
        found = encode(itertools.chain(before, frames), vae)[:, -count:]
    else:
        found = encode(frames, vae)
    return F.pad(found, (0, 0, 0, 0, 0, size[0] - count))


def encode(frames: Iterable[Tensor], vae: VAE) -> Tensor:
    """The latent mean [C, t, h, w] of frames [H, W, 3] uint8, in memory constant in their number."""
    stream, pieces = vae.stream(), list[tuple[Tensor, Tensor]]()
    left = iter(frames)
    while group := list(itertools.islice(left, AT_ONCE)):
        pieces += stream.push(as_float(torch.stack(group).permute(3, 0, 1, 2)))
    return torch.cat([mean for mean, _ in [*pieces, *stream.flush()]], dim=1)
