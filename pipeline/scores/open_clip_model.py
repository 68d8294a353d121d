"""An open_clip image encoder: whole frames padded to a square in, unit vectors out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manifests.errors import UsageError
from media.decode.picture import fitted

_GREY = 114  # of the padding
_AT_ONCE = 64


def padded_square(rgb: np.ndarray, side_px: int) -> np.ndarray:
    """The whole picture [H, W, 3] scaled by one factor into the middle of a grey square of `side_px`."""
    height, width = rgb.shape[:2]
    factor = side_px / max(height, width)
    small = fitted(rgb, max(1, round(width * factor)), max(1, round(height * factor)))
    square = np.full((side_px, side_px, 3), _GREY, np.uint8)
    top, left = (side_px - small.shape[0]) // 2, (side_px - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


class ImageEncoder:
    """A model in memory, on a GPU where there is one.

    Raises:
        UsageError: it cannot be loaded; `option` is what named it.
    """

    def __init__(self, model: str, pretrained: str, option: str) -> None:
        import open_clip
        import torch

        torch.set_num_threads(1)
        try:
            found, _, transform = open_clip.create_model_and_transforms(model, pretrained=pretrained or None)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"{option} {model}",
                f"cannot be loaded ({error})",
                "Give local-dir:FOLDER with open_clip weights.",
            ) from error
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = found.to(self.device).eval()
        size = found.visual.image_size
        self.side_px = int(size[0] if isinstance(size, tuple | list) else size)
        normalize = next(step for step in transform.transforms if type(step).__name__ == "Normalize")
        self.mean, self.std = (
            np.array(values, np.float32).reshape(3, 1, 1) for values in (normalize.mean, normalize.std)
        )

    def units(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """[n, d] float32 unit vectors of pictures [H, W, 3] of any sizes; many are one batch."""
        import torch

        found = []
        for begin in range(0, len(pictures), _AT_ONCE):
            squares = [padded_square(rgb, self.side_px) for rgb in pictures[begin : begin + _AT_ONCE]]
            planes = np.stack(squares).transpose(0, 3, 1, 2).astype(np.float32) / 255
            batch = torch.from_numpy((planes - self.mean) / self.std).to(self.device)
            with torch.inference_mode():
                found.append(self.model.encode_image(batch, normalize=True).float().cpu().numpy())
        return np.concatenate(found)
