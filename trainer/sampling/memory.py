"""What a sample needs of memory at least, reckoned before any work."""

from __future__ import annotations

import os
import resource

import torch

from manifests.errors import UsageError
from trainer.sampling.canvas import Canvas
from trainer.sampling.trained import TrainedModel
from trainer.sampling.windows import Windows

_VALUES_A_TOKEN = 32
"""Single-precision values of a token that a block holds at a time, as multiples of its width: its parts of
attention and of the feed-forward layer, for a branch with and one without text."""
_FRAMES = 3
"""Decoded frames that are held at a time, as single-precision values."""


def check_memory(canvas: Canvas, model: TrainedModel, windows: Windows) -> None:
    """Refuse a canvas that cannot be held.

    What is reckoned is less than what will be needed: whatever is refused would have failed.

    Raises:
        UsageError: the latents of the whole, the tokens of a window or its frames need more memory than the
            device or this process has.
    """
    t, h, w = canvas.latent_size(model.factors)
    tokens = model.num_tokens((min(t, windows.length), h, w))
    needed = {
        "its latents": 4 * len(model.mean) * t * h * w,
        "the tokens of a window": 4 * _VALUES_A_TOKEN * model.dit.config.width * tokens,
        "its frames": 4 * _FRAMES * 3 * canvas.height_px * canvas.width_px,
    }
    if sum(needed.values()) > (there := _there(model.device)):
        most = max(needed, key=lambda name: needed[name])
        raise UsageError(
            f"{canvas.num_frames} frames of {canvas.width_px} x {canvas.height_px} pixels",
            f"need at least {sum(needed.values()) / 2**30:.3g} GiB of memory, most for {most}; there are "
            f"{there / 2**30:.3g}",
            "Ask for a smaller size or length, or a shorter --window.",
        )


def _there(device: torch.device) -> int:
    """Bytes of a device, or those that this process may have."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return pages if limit == resource.RLIM_INFINITY else min(pages, limit)
