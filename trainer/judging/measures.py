"""What each feature keeps: given frames, the joint beside the interior, a loop's seam, drift over a minute.

Shape legend: T frames, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW_S = 1.0
"""Length of the parts between which drift is measured."""


def kept_error(frames: Tensor, given: Tensor, start: int = 0) -> int:
    """The largest difference between given frames [n, H, W, 3] uint8 and those returned from `start` on."""
    return int((frames[start : start + len(given)].int() - given.int()).abs().max())


def changes(frames: Tensor) -> Tensor:
    """Mean absolute change from each frame [T, H, W, 3] to the next, [T - 1], in steps of 255."""
    return frames.float().diff(dim=0).abs().mean(dim=(1, 2, 3))


def joint_ratio(frames: Tensor, at: int) -> float:
    """Change from frame `at` - 1 to `at`, over the median change near it: 1 for a joint one cannot see."""
    steps = changes(frames[max(0, at - 9) : at + 9])
    own = at - 1 - max(0, at - 9)
    others = torch.cat([steps[:own], steps[own + 1 :]])
    return float(steps[own] / others.median().clamp_min(1e-3))


def seam_ratio(frames: Tensor) -> float:
    """Change from the last frame of a loop to its first, over the median change inside."""
    inside = changes(frames).median().clamp_min(1e-3)
    return float((frames[0].float() - frames[-1].float()).abs().mean() / inside)


def drift(frames: Tensor, fps: float) -> dict[str, float]:
    """How far mean colour, spread and motion of the last second lie from those of the first."""
    count = max(2, round(WINDOW_S * fps))
    first, last = frames[:count].float(), frames[-count:].float()
    colour = (first.mean(dim=(0, 1, 2)) - last.mean(dim=(0, 1, 2))).abs().max()
    return {
        "colour": float(colour),
        "spread": float(last.std() / first.std().clamp_min(1e-3)),
        "motion": float(changes(last).mean() / changes(first).mean().clamp_min(1e-3)),
    }


def likeness(frames: Tensor, other: Tensor) -> float:
    """Correlation of two films [T, H, W, 3] of one size."""
    a, b = (value.float() - value.float().mean() for value in (frames, other))
    return float((a * b).sum() / (a.pow(2).sum() * b.pow(2).sum()).sqrt().clamp_min(1e-6))
