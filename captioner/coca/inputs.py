"""From a clip's pictures to model inputs: a few whole frames of about one number of patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from captioner.coca.config import CocaConfig

if TYPE_CHECKING:
    from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, which open_clip's weights expect
STD = (0.26862954, 0.26130258, 0.27577711)


def input_size(width_px: int, height_px: int, config: CocaConfig) -> tuple[int, int]:
    """(width, height) in pixels of the model's input: whole patches, at most about `max_patches`.

    The aspect is kept to within half a patch.
    """
    aspect = width_px / height_px
    across = math.sqrt(config.max_patches * aspect)
    columns, rows = max(1, round(across)), max(1, round(across / aspect))
    return columns * config.patch_px, rows * config.patch_px


def spread(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` frames, first and last among them."""
    return (
        list(range(count))
        if count <= most
        else [round(index * (count - 1) / (most - 1)) for index in range(most)]
        if most > 1
        else [count // 2]
    )


def looked_at(count: int, config: CocaConfig) -> list[int]:
    """Which of `count` previews are looked at: neighbours around the middle, or some spread over it.

    See `CocaConfig.most_in_a_row`.
    """
    most = config.max_frames
    if most < count <= config.most_in_a_row:
        begin = (
            count // 2 - most // 2
        )  # a preview is the first frame of its time: the middle of a clip of four is where the third begins
        return list(range(begin, begin + most))
    return spread(count, most)


def clip_input(frames: Sequence[np.ndarray], config: CocaConfig) -> np.ndarray:
    """[T, h, w, 3] uint8 of pictures [H, W, 3] uint8 of one size, whole, by area averaging."""
    size = input_size(frames[0].shape[1], frames[0].shape[0], config)
    picked = [frames[index] for index in looked_at(len(frames), config)]
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in picked])


def normalised(clips: np.ndarray | Tensor) -> Tensor:
    """[B, T, h, w, 3] uint8 to [B, T, 3, h, w] float with CLIP's mean and deviation."""
    import torch

    x = torch.as_tensor(clips).permute(0, 1, 4, 2, 3).float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
