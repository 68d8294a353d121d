"""Frames as a VAE takes them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_video(frames: list[np.ndarray]) -> Tensor:
    """Frames [H, W, 3] uint8 to video [3, T, H, W] uint8."""
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).contiguous()


def as_float(video: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return video.float() / 127.5 - 1
