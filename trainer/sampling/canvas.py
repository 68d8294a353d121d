"""What is to be made: frames, pixels and rate, and where a window of latents lies in its video."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from manifests.errors import UsageError
from trainer.data.patches import coordinates
from trainer.data.samples import Size
from vae.grid import Extent, Factors, latent_size
from vae.network.streaming import num_latents


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Size in frames and pixels, and frames per second (any for an image).

    `begins` says what the first latent covers: one frame, as in a video from its beginning, or a whole group
    of frames, as in a window from the middle and in a loop. The model is told by the coordinates.
    """

    num_frames: int
    height_px: int
    width_px: int
    fps: float = 12.0
    begins: Literal["frame", "group"] = "frame"

    @property
    def extent(self) -> Extent:
        return Extent(self.num_frames, self.height_px, self.width_px)

    def latent_size(self, factors: Factors) -> Size:
        """(t, h, w) in latent cells."""
        _, h, w = latent_size(self.extent, factors)
        return num_latents(self.extent, factors, self.begins), h, w

    def coordinates(self, grid: Size, patch: Size, factors: Factors) -> tuple[Tensor, Tensor]:
        """Coordinates [n, 4] and latent frame [n] of the tokens of this canvas."""
        fps = self.fps if self.num_frames > 1 else 0.0
        start, length = 0 if self.begins == "frame" else 1, self.latent_size(factors)[0]
        return coordinates(grid, patch, fps, start, factors[0], length)

    def frames_of(self, latent: int, factor_t: int) -> range:
        """The frames that a latent covers."""
        if self.begins == "frame":
            first, last = (0, 1) if latent == 0 else (1 + (latent - 1) * factor_t, 1 + latent * factor_t)
        else:
            first, last = latent * factor_t, (latent + 1) * factor_t
        return range(min(first, self.num_frames), min(last, self.num_frames))

    def window(self, start: int, count: int, factor_t: int) -> Canvas:
        """The canvas of `count` latents from `start` on; frames beyond the end are made and dropped."""
        begins: Literal["frame", "group"] = self.begins if start == 0 else "group"
        frames = 1 + (count - 1) * factor_t if begins == "frame" else count * factor_t
        return replace(self, num_frames=frames, begins=begins)


def checked(canvas: Canvas) -> Canvas:
    """The canvas itself.

    Raises:
        UsageError: a size, length or rate that no video has.
    """
    sides = (canvas.num_frames, canvas.height_px, canvas.width_px)
    if any(side < 1 for side in sides) or not 0 < canvas.fps < float("inf"):
        raise UsageError(
            f"a canvas of {canvas.num_frames} frames, {canvas.width_px} x {canvas.height_px} pixels at "
            f"{canvas.fps:g} frames a second",
            "cannot be made",
            "Each must be more than 0.",
        )
    return canvas
