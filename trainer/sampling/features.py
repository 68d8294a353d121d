"""What Sora showed, each as a canvas with conditions: there is no other sampler.

Frames given as pixels come back as those pixels; what is made beside them is made in latent space, from one
encoding of the whole canvas. A latent covers four frames but for the first, so the given parts are laid out
to fill whole latents.

Shape legend: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manifests.errors import UsageError
from trainer.sampling.canvas import Canvas
from trainer.sampling.conditions import Condition

CONTEXT = 16
"""Frames of a given video that the model sees beside what it makes, about."""
SHARED = 0.8
"""Strength of given frames in a latent that they share with frames that are made."""


@dataclass(frozen=True)
class Clip:
    """A video or, with one frame, an image: [T, H, W, 3] uint8."""

    frames: Tensor
    fps: float

    def __len__(self) -> int:
        return len(self.frames)

    def canvas(self, num_frames: int | None = None) -> Canvas:
        """The canvas of its size and rate, as long as it is or of a number of frames."""
        _, height, width, _ = self.frames.shape
        return Canvas(num_frames=num_frames or len(self), height_px=height, width_px=width, fps=self.fps)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A sample to make, and how the result is put together of it.

    Attributes:
        conditions: what is given of the canvas.
        keep: which frames of the canvas belong to the result.
        before, after: frames of the result that need not be made [n, H, W, 3] uint8.
        prompt_weights: of several prompts, each over the frames of the canvas [T]; empty for one prompt.
    """

    canvas: Canvas
    conditions: tuple[Condition, ...] = ()
    keep: range
    before: Tensor | None = None
    after: Tensor | None = None
    is_loop: bool = False
    prompt_weights: tuple[Tensor, ...] = ()

    @property
    def num_frames(self) -> int:
        """Frames of the result."""
        return len(self.keep) + sum(len(part) for part in (self.before, self.after) if part is not None)


def from_text(canvas: Canvas) -> Scene:
    """Text to video, or to an image."""
    return Scene(canvas=canvas, keep=range(canvas.num_frames))


def from_images(canvas: Canvas, images: Mapping[int, Tensor]) -> Scene:
    """Image to video: pictures [H, W, 3] uint8 by the frame they are. The first, the last, any others."""
    if late := [frame for frame in images if not 0 <= frame < canvas.num_frames]:
        raise UsageError(f"a picture at frame {late[0]}", f"is not in a video of {canvas.num_frames} frames")
    conditions = tuple(
        Condition(frames=picture[None], start=frame, is_held=True) for frame, picture in images.items()
    )
    return replace(from_text(canvas), conditions=conditions)


def loop(canvas: Canvas, factor_t: int) -> Scene:
    """A video whose end goes on with its beginning.

    Raises:
        UsageError: its frames do not fill whole latents.
    """
    if rest := canvas.num_frames % factor_t:
        less, more = canvas.num_frames - rest, canvas.num_frames - rest + factor_t
        counts = f"{less} or {more}" if less else f"{more}"
        raise UsageError(
            f"a loop of {canvas.num_frames} frames",
            "cannot be made",
            f"Its frames are a multiple of {factor_t}: {counts}.",
        )
    return replace(from_text(replace(canvas, begins="group")), is_loop=True)


def _tail(clip: Clip, factor_t: int) -> Tensor:
    """Its last frames, which fill latents from the beginning of a canvas."""
    count = min(len(clip), CONTEXT + 1)
    return clip.frames[-(count - (count - 1) % factor_t) :]


def _head(clip: Clip, factor_t: int) -> Condition:
    """Its first frames, which fill latents at the end of a canvas; still to be placed."""
    count = min(len(clip), CONTEXT)
    whole = count - count % factor_t
    return Condition(frames=clip.frames[: whole or count], is_held=not whole)


def extend_after(clip: Clip, count: int, factor_t: int) -> Scene:
    """The video and `count` frames that follow it."""
    tail = _tail(clip, factor_t)
    canvas = clip.canvas(len(tail) + count)
    return Scene(
        canvas=canvas,
        conditions=(Condition(frames=tail),),
        keep=range(canvas.num_frames),
        before=clip.frames[: len(clip) - len(tail)],
    )


def extend_before(clip: Clip, count: int, factor_t: int) -> Scene:
    """`count` frames that lead to the video, and the video."""
    head = _head(clip, factor_t)
    made = count + (1 - count) % factor_t
    canvas = clip.canvas(made + len(head.given))
    return Scene(
        canvas=canvas,
        conditions=(replace(head, start=made),),
        keep=range(made - count, canvas.num_frames),
        after=clip.frames[len(head.given) :],
    )


def connect(first: Clip, second: Clip, count: int, factor_t: int) -> Scene:
    """One video, `count` frames that lead to the other, and that one.

    Raises:
        UsageError: they are not of one size and rate.
    """
    first, second = alike(first, second)
    tail, head = _tail(first, factor_t), _head(second, factor_t)
    start = len(tail) + count
    canvas = first.canvas(start + len(head.given))
    conditions = [Condition(frames=tail), replace(head, start=start)]
    if (rest := count % factor_t) and not head.is_held:
        # these share a latent with frames that are made: it begins between what is given and noise
        shared = head.given[: factor_t - rest]
        conditions.append(Condition(frames=shared, start=start, strength=SHARED, is_held=True))
    return Scene(
        canvas=canvas,
        conditions=tuple(conditions),
        keep=range(canvas.num_frames),
        before=first.frames[: len(first) - len(tail)],
        after=second.frames[len(head.given) :],
    )


def close_loop(clip: Clip, count: int, factor_t: int) -> Scene:
    """The video and `count` frames that lead from its end to its beginning."""
    scene = connect(clip, clip, count, factor_t)
    head = len(scene.conditions[1].given)
    return replace(scene, keep=range(scene.canvas.num_frames - head), after=None)


def edit(clip: Clip, strength: float, mask: Tensor | None = None) -> Scene:
    """The video begun again from a noise level: 0 leaves it, 1 makes another (SDEdit, arXiv:2108.01073).

    Args:
        mask: [H, W] bool, where it is edited; None: everywhere.
    """
    if not 0 <= strength <= 1:
        raise UsageError(f"--strength {strength:g}", "is not from 0 to 1")
    edited = Condition(frames=clip.frames, strength=1 - strength, box=mask)
    kept = () if mask is None else (Condition(frames=clip.frames, box=~mask),)
    return Scene(canvas=clip.canvas(), conditions=(edited, *kept), keep=range(len(clip)))


def blend(first: Clip, second: Clip, count: int, factor_t: int) -> Scene:
    """One video becomes the other over `count` frames: the last of the first, the first of the second.

    The latents of those frames are mixed by `trainer.sampling.blending`.

    Raises:
        UsageError: they are not of one size and rate, or shorter than that.
    """
    first, second = alike(first, second)
    least = factor_t + 2  # three latents: the first and the last are kept
    if not least <= count <= min(len(first), len(second)):
        raise UsageError(
            f"a blend of {count} frames",
            f"does not fit videos of {len(first)} and {len(second)} frames",
            f"It takes at least {least}, and no more than the shorter one has.",
        )
    weight, canvas = torch.linspace(0, 1, count), first.canvas(count)
    last = canvas.frames_of(-(-(count - 1) // factor_t), factor_t).start
    return Scene(
        canvas=canvas,
        conditions=(
            Condition(frames=first.frames[-count:][:1]),
            Condition(frames=second.frames[last:count], start=last),
        ),
        keep=range(count),
        before=first.frames[: len(first) - count],
        after=second.frames[count:],
        prompt_weights=(1 - weight, weight),
    )


def alike(first: Clip, second: Clip) -> tuple[Clip, Clip]:
    """Both at one rate: a single frame has none of its own.

    Raises:
        UsageError: they are not of one size and rate.
    """
    size, other = first.frames.shape[1:3], second.frames.shape[1:3]
    if size != other:
        raise UsageError(
            f"videos of {size[1]} x {size[0]} and {other[1]} x {other[0]} pixels",
            "cannot be joined",
            "Give both one size with --width and --height."
            if abs(size[1] * other[0] / size[0] - other[1]) <= 1
            else "Their shapes differ: crop or pad one of them before, by your own choice.",
        )
    if len(first) == 1 or len(second) == 1:
        fps = first.fps if len(second) == 1 else second.fps
        first, second = replace(first, fps=fps), replace(second, fps=fps)
    if abs(first.fps - second.fps) > 0.01:
        raise UsageError(
            f"videos of {first.fps:g} and {second.fps:g} frames a second",
            "cannot be joined",
            "Convert one of them, or give --fps to take frames of both at that rate.",
        )
    return first, second


def frames_in(seconds: float, fps: float, least: int = 1) -> int:
    """The number of frames that last so long."""
    return max(least, round(seconds * fps))
