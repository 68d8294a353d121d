"""Frames at half their size, many times as fast as a scaler for any sizes: the way down to small pictures.

Averages of two by two pixels are right for every later average, and OpenCV makes them at the speed of memory.
"""

from __future__ import annotations

import av
import cv2
import numpy as np
from av.video.plane import VideoPlane

_PLANAR = frozenset(f"yuv{kind}{layout}p" for kind in ("", "j") for layout in (420, 422, 444))
"""Pixel formats of three planes with a byte a sample."""
_SPARE = 1.8
"""So many times as wide as what is made of it a halved frame is at least."""


def halved(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """`frame` halved as often as leaves something to scale to `width` x `height` pixels; often it itself."""
    if any(plane.line_size <= 0 for plane in frame.planes):  # stored from the bottom up
        return frame
    while (
        frame.format.name in _PLANAR
        and frame.width % 4 == frame.height % 4 == 0
        and frame.width >= 2 * _SPARE * width
        and frame.height >= 2 * _SPARE * height
    ):
        frame = _half(frame)
    return frame


def _half(frame: av.VideoFrame) -> av.VideoFrame:
    small = av.VideoFrame(frame.width // 2, frame.height // 2, frame.format.name)
    for source, target in zip(frame.planes, small.planes, strict=True):
        cv2.resize(
            _pixels(source), (target.width, target.height), _pixels(target), interpolation=cv2.INTER_AREA
        )
    small.colorspace, small.color_range = frame.colorspace, frame.color_range
    return small


def _pixels(plane: VideoPlane) -> np.ndarray:
    """[height, width] uint8, which are the plane's own."""
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]
