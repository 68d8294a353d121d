"""Facts of a file on its own: preview frames and measurements of a video or image that is in no dataset, taken as one clip."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from media import VideoReader, probe
from media.measure import look, measure

_MAX_SECONDS, _SMALL_PX, _PREVIEW_PX, _PREVIEW_FPS, _SMALL_FPS = 60.0, 256, 512, 2.0, 8.0


def file_facts(path: Path) -> tuple[list[np.ndarray], list[float], dict]:
    """Preview frames, their times, and facts as the `clips` table has them. Of a long video, the first minute.

    Raises:
        MediaError: the file cannot be read.
    """
    facts = probe(str(path))
    small_pictures, small_times_s, changes, before = [], [], [], None
    previews, times_s, slots, num_frames = [], [], (-1, -1), 0
    for picture in VideoReader(facts).pictures(0.0, _MAX_SECONDS):
        small = picture.draft(_SMALL_PX)
        if before is not None and before.shape == small.shape:
            changes.append(cv2.norm(small, before, cv2.NORM_L1) / small.size / 255)
        before, num_frames, last_s = small, num_frames + 1, picture.time_s
        now = (int(picture.time_s * _SMALL_FPS + 1e-3), int(picture.time_s * _PREVIEW_FPS + 1e-3))
        if now[0] != slots[0]:
            small_pictures.append(small)
            small_times_s.append(picture.time_s)
        if now[1] != slots[1]:
            previews.append(picture.draft(_PREVIEW_PX))
            times_s.append(picture.time_s)
        slots = now
    width, height = facts.geometry.display_size_px
    row = {
        "kind": facts.kind, "width_px": width, "height_px": height, "num_frames": num_frames, "fps": facts.fps, "start_s": 0.0, "end_s": facts.duration_s,
    }  # fmt: skip
    numbers = measure([look(rgb) for rgb in previews], small_pictures, small_times_s, changes, last_s, width)
    return previews, times_s, row | numbers
