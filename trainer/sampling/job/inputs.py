"""Videos and images that a sample begins with: read whole, fitted to the canvas without cropping."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manifests import cli
from manifests.errors import RushesError, UsageError
from media.apart.reader import Reader, probe
from media.decode.facts import Probe
from media.decode.geometry import is_uneven, pick_times
from media.decode.picture import fitted
from media.errors import MediaError
from trainer.sampling.features import Clip

MAX_BYTES = 8 << 30
"""Most bytes of frames that are held in memory."""
_MOST_FPS = 60.0
"""At which a video with uneven times is taken, if no rate is asked for."""
_ALIKE = 1.1
"""Steps of one rate differ by less."""
_MOST_OFF = 0.05
"""Share of its width that a size may be off by, where a pixel of the other axis is more."""


def read_clip(path: Path, size_px: tuple[int, int] | None = None, fps: float | None = None) -> Clip:
    """A video or image, whole.

    Args:
        size_px: (width, height) to bring it to; None: its own.
        fps: frames are picked at this rate, which may not be above its own; None: its own. A video with
            uneven times is taken at an even rate, frames held as long as they are shown.

    Raises:
        RushesError: it cannot be read, or is too long to be held.
        UsageError: it has another shape, or fewer frames a second.
    """
    with _telling(path):
        facts = probe(str(path))
        width, height = _checked_size(path, facts, size_px)
        if facts.has_audio:
            cli.say(f"{path}: its sound is left out, samples have none")
        frames, times = _frames(path, facts, width, height)
    is_uneven_now = facts.is_vfr or is_uneven(times)  # what was lost leaves its time empty
    own = float(facts.fps or 0.0) or 12.0
    if len(frames) == 1:
        return Clip(torch.from_numpy(np.stack(frames)), fps or own)
    if is_uneven_now:
        steps_s = np.diff(times)
        fastest = 1 / _usual_s(steps_s)
        rate = fps or min(_MOST_FPS, fastest)
        _check_rate(path, rate, fastest)
        picks = held(times, facts, rate)
        num_left = len(frames) - len(set(picks))
        cli.say(
            f"{path}: has uneven times; it is taken at {rate:g} frames a second"
            + (f", and {num_left} of its {len(frames)} frames are left out" if num_left else "")
        )
        if len(picks) * frames[0].nbytes > MAX_BYTES:
            raise RushesError(str(path), "is too long to be held in memory", "Give a part of it, or --fps.")
        return Clip(torch.from_numpy(np.stack([frames[index] for index in picks])), rate)
    if fps is None:
        return Clip(torch.from_numpy(np.stack(frames)), own)
    _check_rate(path, fps, own)
    picked = pick_times(times, fps)
    return Clip(torch.from_numpy(np.stack([frames[index] for index in picked])), fps)


def _usual_s(steps_s: np.ndarray) -> float:
    """The mean of the shortest steps and those of their rate: containers round, and clocks jitter."""
    mean_s = float(np.quantile(steps_s, 0.05))
    while (longer_s := float(steps_s[steps_s <= _ALIKE * mean_s].mean())) > mean_s:
        mean_s = longer_s
    return mean_s


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """What is wrong with a file, in one line.

    Raises:
        UsageError: it is no file.
        RushesError: it cannot be decoded.
    """
    if not path.is_file():
        raise UsageError(str(path), "is no file", "Check the path.")
    try:
        yield
    except MediaError as error:
        cause = error.message.removeprefix(str(path)).lstrip(": ").rstrip(". ")
        raise RushesError(str(path), cause, "Give another file.") from error


def _check_rate(path: Path, fps: float, own: float) -> None:
    if fps > own * 1.001:
        raise UsageError(
            f"--fps {fps:g}",
            f"is more than {path} has: {own:g}",
            "Sample at its own rate, or at a lower one.",
        )


def read_picture(path: Path, size_px: tuple[int, int] | None = None, *, is_mask: bool = False) -> Tensor:
    """A picture [H, W, 3] uint8: an image, or a video of one frame.

    Raises:
        RushesError, UsageError: as `read_clip` does; or it has more frames.
    """
    with _telling(path):
        facts = probe(str(path))
        width, height = _checked_size(path, facts, size_px, is_mask=is_mask)
        found = list(itertools.islice(Reader(facts).frames(), 2))
    if len(found) != 1:
        cause = "is a video, and a picture is wanted" if found else "has no frame"
        raise UsageError(str(path), cause, "Give one of its frames as a picture.")
    return torch.from_numpy(fitted(found[0].rgb, width, height))


def held(times: list[float], facts: Probe, rate: float) -> list[int]:
    """The frame that is shown in the middle of each slot of an even rate."""
    ends_s = max(facts.duration_s, times[-1] + 1 / rate) - times[0]
    slots = (np.arange(max(1, round(ends_s * rate))) + 0.5) / rate + times[0]
    return [int(place) for place in np.searchsorted(times, slots, side="right") - 1]


def _frames(path: Path, facts: Probe, width: int, height: int) -> tuple[list[np.ndarray], list[float]]:
    frames, times = list[np.ndarray](), list[float]()
    if (needed := facts.num_packets * width * height * 3) > MAX_BYTES:
        raise RushesError(
            str(path),
            f"has {facts.num_packets} frames, which would take {needed / (1 << 30):.1f} GiB of memory",
            "Give a part of it, or a smaller size with --width and --height.",
        )
    num_damaged = 0
    for frame in Reader(facts, decoder="pyav").frames():  # which alone tells of damage
        if (len(frames) + 1) * width * height * 3 > MAX_BYTES:
            raise RushesError(str(path), "is too long to be held in memory", "Give a part of it.")
        if not _is_alike((frame.rgb.shape[1], frame.rgb.shape[0]), (width, height)):
            cause = f"changes its shape at {frame.time_s:g} s: it would be squeezed"
            raise UsageError(str(path), cause, "Give the part before it, or after.")
        num_damaged += frame.is_damaged
        frames.append(fitted(frame.rgb, width, height))
        times.append(frame.time_s)
    if not frames:
        raise RushesError(str(path), "has no frame", "Give another file.")
    num_lost = max(0, facts.num_packets - len(frames)) if facts.kind == "video" else 0
    if num_damaged or num_lost:
        cli.say(
            f"{path}: of its {facts.num_packets} frames {num_damaged} are damaged, and {num_lost} are missing"
        )
    return frames, times


def _checked_size(
    path: Path, facts: Probe, size_px: tuple[int, int] | None, *, is_mask: bool = False
) -> tuple[int, int]:
    """The size to bring frames to.

    Raises:
        UsageError: it has another shape, so that the picture would be cropped or squeezed.
    """
    own = facts.geometry.display_size_px
    if size_px is None or size_px == own:
        return own
    if not _is_alike(own, size_px):
        near = (size_px[0], max(1, round(size_px[0] * own[1] / own[0])))
        raise UsageError(
            f"{path} of {own[0]} x {own[1]} pixels",
            f"does not fit {size_px[0]} x {size_px[1]} without cropping",
            "A mask has the shape of what it masks."
            if is_mask
            else f"All that is given must have one shape: crop or pad what differs. This one alone would fit "
            f"--width {near[0]} --height {near[1]}.",
        )
    return size_px


def _is_alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether a size becomes the other by one factor, to within a pixel."""
    wide, high = one[0] * other[1] / one[1] - other[0], one[1] * other[0] / one[0] - other[1]
    return min(abs(wide), abs(high)) <= 1 and abs(wide) <= max(1, _MOST_OFF * other[0])


def read_mask(path: Path, size_px: tuple[int, int]) -> Tensor:
    """Where a picture is white, [H, W] bool, brought to the canvas.

    Raises:
        UsageError: nothing or all of it is white.
    """
    mask = read_picture(path, size_px, is_mask=True).float().mean(dim=-1) > 127.5
    if bool(mask.all()) or not bool(mask.any()):
        raise UsageError(
            str(path),
            "marks nothing or everything: none or all of it is white; what is see-through is not looked at",
            "White is what is edited, black is kept.",
        )
    return mask
