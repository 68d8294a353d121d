"""Encoding in half precision, where a model's latents stay what they are."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch

from vae.protocol import VAE

MOST_OFF = 1e-2
"""Root mean square of the difference to single precision over that of the latents. Storing them in bfloat16
alone makes .002."""
_FRAMES, _SIDE = 17, 64


def encoding(device: torch.device, is_half: bool) -> AbstractContextManager:
    """What to encode in: bfloat16 products, or none but single precision."""
    return torch.autocast(device.type, torch.bfloat16) if is_half else contextlib.nullcontext()


def off_by(vae: VAE, device: torch.device) -> float:
    """How far posterior means in bfloat16 are from those in single precision, as a share of their size.

    Measured on a made video: a drifting pattern that holds coarse shapes and fine grain.
    """
    grain = torch.rand((3, 1, _SIDE, _SIDE), generator=torch.Generator().manual_seed(0)) - 0.5
    rows = torch.arange(_SIDE)[:, None] + torch.arange(_SIDE)[None]
    waves = torch.stack([torch.sin((rows + 3 * frame) / 7.0) for frame in range(_FRAMES)])
    video = (0.7 * waves[None] + 0.3 * grain).expand(3, _FRAMES, _SIDE, _SIDE).to(device)
    with torch.no_grad():
        exact = vae.encode_many(video[None])[0][0].float()
        with encoding(device, is_half=True):
            half = vae.encode_many(video[None])[0][0].float()
    return float((half - exact).square().mean().sqrt() / exact.square().mean().sqrt())
