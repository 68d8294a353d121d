"""What curation keeps of a picture: a glance, and now and then a small picture and a preview.

When something is kept follows from the source's own clock and from the step before, never from where a
segment or a shot begins, so cutting a video
into segments changes nothing: small pictures for the proxy at `proxy_fps` and where the picture changes at
once, previews at `preview_fps`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from media.apart.reader import FarPicture
from media.damage.signs import Signs
from media.decode.geometry import Geometry, slot_of
from media.decode.images import encode_jpeg
from media.decode.picture import Picture
from media.measure.clip import Look, look
from media.shots.detector import GLANCE_PX
from pipeline.config import CurateConfig

JUMP = 20 / 255  # a mean change from the frame before that may be a cut: its first picture is worth keeping
GREY_LEVEL, GREY_STD = 128, 1.0
JPEG_QUALITY = 88
LOOK_EVERY = 2  # previews; the numbers of a picture change more slowly than the picture


@dataclass(frozen=True)
class Sample:
    """What is kept of one frame.

    Attributes:
        change: mean absolute difference from the frame before, 0..1.
        small: [h, w, 3] uint8, or None between the slots of the proxy.
        preview: JPEG, or None between the slots of the previews.
        is_grey: the flat grey that decoders give out when they have nothing.
        signs: whether it is damaged, or may be.
    """

    time_s: float
    change: float
    geometry: Geometry
    signs: Signs
    is_grey: bool
    small: np.ndarray | None = None
    preview: bytes | None = None
    look: Look | None = None


class Sampler:
    """Samples the pictures of one source in order."""

    def __init__(self, config: CurateConfig) -> None:
        self.config = config
        self._before: np.ndarray | None = None
        self._slots = (-1, -1)

    def sample(self, picture: Picture | FarPicture) -> tuple[Sample, np.ndarray]:
        """The sample and the glance of the next picture."""
        config, glance = self.config, picture.glance(GLANCE_PX)
        is_first = self._before is None
        change = (
            0.0 if self._before is None else cv2.norm(glance, self._before, cv2.NORM_L1) / glance.size / 255
        )
        self._before = glance
        slots = (
            slot_of(picture.time_s, config.proxy_fps),
            slot_of(picture.time_s, config.preview_fps),
        )
        preview = seen = None
        if slots[1] != self._slots[1]:
            rgb = picture.draft(config.preview_px)
            preview = encode_jpeg(rgb, JPEG_QUALITY)
            seen = look(rgb) if slots[1] % LOOK_EVERY == 0 else None
        small = None
        if is_first or change > JUMP or slots[0] != self._slots[0]:
            small = picture.draft(config.proxy_px)
        self._slots = slots
        return Sample(
            picture.time_s,
            change,
            picture.geometry,
            picture.signs,
            _is_grey(glance),
            small,
            preview,
            seen,
        ), glance


def _is_grey(glance: np.ndarray) -> bool:
    if abs(int(glance[0, 0, 0]) - GREY_LEVEL) > 3:
        return False
    mean, std = cv2.meanStdDev(glance)
    return bool(np.abs(mean - GREY_LEVEL).max() <= 2 and std.max() < GREY_STD)
