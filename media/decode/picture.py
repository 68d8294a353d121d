"""A decoded frame, converted only as far as asked: most frames of a pass need a glance only.

Three ways to look, dear to cheap: `rgb` (any size, full colour resolution), `draft` (reduced; colour at half
resolution, as JPEG and VP9 keep it anyway) and `glance` (tiny, sampled, as stored: for telling one frame from
the next).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from media.damage.signs import Signs
from media.decode import color
from media.decode.geometry import Geometry
from media.decode.halving import halved
from media.errors import MediaError


@dataclass
class Scaler:
    """Keeps swscale's set-up from frame to frame, one for each kind of conversion."""

    _kept: dict[tuple, VideoReformatter] = field(default_factory=dict)

    def __call__(
        self, frame: av.VideoFrame, width: int, height: int, pixel_format: str, method: str
    ) -> av.VideoFrame:
        key = (frame.width, frame.height, frame.format.name, width, height, pixel_format)
        scaler = self._kept.setdefault(key, VideoReformatter())
        try:
            return scaler.reformat(
                frame, width=width, height=height, format=pixel_format, interpolation=method, threads=1
            )
        except (OSError, ValueError) as error:
            kind = f"{frame.format.name}, matrix {int(frame.colorspace)} of H.273"
            raise MediaError("colours", f"pictures of {kind} cannot be converted: {error}") from error


@dataclass
class Picture:
    """One picture of a source.

    Attributes:
        time_s: from the source's first frame.
        frame: as decoded, or already RGB [H, W, 3] uint8 and upright.
        geometry: how the stored frame is shown.
        signs: whether it is damaged, or may be.
    """

    time_s: float
    frame: av.VideoFrame | np.ndarray
    geometry: Geometry
    signs: Signs = field(default_factory=Signs)
    scaler: Scaler = field(default_factory=Scaler, repr=False)
    _reduced: av.VideoFrame | None = field(default=None, repr=False)

    def rgb(self, width: int, height: int) -> np.ndarray:
        """[height, width, 3] uint8 BT.709, upright, scaled by area averaging when smaller.

        The array owns its memory.
        """
        if isinstance(self.frame, np.ndarray):
            return fitted(self.frame, width, height)
        size = self.geometry.stored_orientation(width, height)
        return self.geometry.upright(color.to_rgb(self.frame, *size, self.scaler))

    def draft(self, max_side_px: int) -> np.ndarray:
        """As `rgb`, with the longer side at most `max_side_px`, scaled as 4:2:0 where that is cheaper: it is
        what JPEG and VP9 keep anyway.

        Ask for larger drafts first: a later one at most half as large is made from the one before.
        """
        width, height = self.geometry.fitted_size_px(max_side_px)
        frame = self.frame
        if isinstance(frame, av.VideoFrame) and color.is_plain(frame):
            size = self.geometry.stored_orientation(width, height)
            is_near = frame.format.name == "yuv420p" and size[0] < frame.width
            if is_near or size[0] * 1.5 < frame.width:
                source = (
                    self._reduced
                    if self._reduced is not None and self._reduced.width >= 2 * size[0]
                    else halved(frame, *size)
                )
                self._reduced = small = self.scaler(source, *size, "yuv420p", "AREA")
                return self.geometry.upright(self.scaler(small, *size, "rgb24", "BILINEAR").to_ndarray())
        return self.rgb(width, height)

    def glance(self, side_px: int) -> np.ndarray:
        """[side, side, 3] uint8 RGB of sampled pixels, for comparing neighbouring frames of any sizes."""
        if isinstance(self.frame, np.ndarray):
            return cv2.resize(self.frame, (side_px, side_px), interpolation=cv2.INTER_AREA)
        return self.scaler(self.frame, side_px, side_px, "rgb24", "FAST_BILINEAR").to_ndarray()


def fitted(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """[H, W, 3] at another size, by area averaging when smaller."""
    if rgb.shape[:2] == (height, width):
        return rgb
    method = cv2.INTER_AREA if width < rgb.shape[1] else cv2.INTER_CUBIC
    return cv2.resize(rgb, (width, height), interpolation=method)


def shown(facts_geometry: Geometry, frame: av.VideoFrame, widened: float = 1.0) -> Geometry:
    """The geometry of a frame whose stored size may differ from the source's first.

    Args:
        widened: how many times as wide a pixel is as at first.
    """
    size = frame.width, frame.height
    if size == (facts_geometry.stored_width_px, facts_geometry.stored_height_px) and widened == 1:
        return facts_geometry
    aspect = facts_geometry.sample_aspect * widened
    return replace(facts_geometry, stored_width_px=size[0], stored_height_px=size[1], sample_aspect=aspect)
