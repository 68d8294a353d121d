"""How much of a picture is text: rows of dense, strong, upright strokes.

No recognition, no weights; a measure to sort by, not a reader.
"""

from __future__ import annotations

import cv2
import numpy as np

STROKE = 90  # least horizontal change of luma that is a stroke's edge
MIN_HEIGHT_PX, MAX_HEIGHT_SHARE = 7, 0.3
MIN_ASPECT, MIN_STROKE_SHARE, MIN_FILL = 1.6, 0.18, 0.45
_BLOCK = cv2.getStructuringElement(cv2.MORPH_RECT, (5, 5))
_ROW = cv2.getStructuringElement(cv2.MORPH_RECT, (11, 3))


def text_share(luma: np.ndarray) -> float:
    """Share of the picture's area, 0 to 1, that rows of text cover.

    Letters are edges close together along a line: strong horizontal changes are joined along the row, and a
    joined region counts as text if it is wide, of a line's height, well filled, and dense in edges of both
    signs.

    Args:
        luma: [H, W] uint8, about 512 pixels long.
    """
    slope = cv2.Sobel(luma, cv2.CV_16S, 1, 0, ksize=3)
    up, down = (slope > STROKE).astype(np.uint8), (slope < -STROKE).astype(np.uint8)
    joined = cv2.morphologyEx(up | down, cv2.MORPH_CLOSE, _ROW)
    joined = cv2.morphologyEx(joined, cv2.MORPH_OPEN, _BLOCK)
    if not joined.any():
        return 0.0
    _, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=4)
    width, height, filled = (
        stats[1:, cv2.CC_STAT_WIDTH],
        stats[1:, cv2.CC_STAT_HEIGHT],
        stats[1:, cv2.CC_STAT_AREA],
    )
    lines = (
        (height >= MIN_HEIGHT_PX)
        & (height <= MAX_HEIGHT_SHARE * luma.shape[0])
        & (width >= MIN_ASPECT * height)
        & (filled >= MIN_FILL * width * height)
    )
    area = 0
    for number in np.nonzero(lines)[0] + 1:
        left, top, wide, high, _ = stats[number]
        part = (slice(top, top + high), slice(left, left + wide))
        inside = labels[part] == number
        rising, falling = float(up[part][inside].mean()), float(down[part][inside].mean())
        if min(rising, falling) > MIN_STROKE_SHARE / 2 and rising + falling > MIN_STROKE_SHARE:
            area += int(wide) * int(high)
    return min(1.0, area / luma.size)
