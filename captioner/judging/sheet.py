"""Contact sheets: clips as rows of frames with what was said of them, to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from captioner.coca.inputs import spread
from manifests.store import storage
from media.decode.images import encode_png

FRAME_PX, FRAMES, TEXT_WIDTH_PX, GAP_PX = 120, 4, 620, 6

SheetRow = tuple[Sequence[np.ndarray], str]
"""Frames [H, W, 3] uint8 of a clip, and the text beside them."""


def contact_sheet(rows: Sequence[SheetRow], path: Path) -> None:
    """Write a PNG with one row a clip: up to four frames, whole, and the text beside them."""
    font = ImageFont.load_default(13)
    width = FRAMES * (FRAME_PX + GAP_PX) + TEXT_WIDTH_PX
    lines = [
        [line for part in text.split("\n") for line in textwrap.wrap(part, 92) or [""]] for _, text in rows
    ]
    heights = [max(FRAME_PX, 17 * len(own)) + GAP_PX for own in lines]
    sheet = Image.new("RGB", (width, sum(heights) or 1), (250, 250, 248))
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (frames, _), own, height in zip(rows, lines, heights, strict=True):
        for place, index in enumerate(spread(len(frames), FRAMES)):
            picture = _fitted(frames[index])
            sheet.paste(Image.fromarray(picture), (place * (FRAME_PX + GAP_PX), top))
        for number, line in enumerate(own):
            draw.text(
                (FRAMES * (FRAME_PX + GAP_PX) + 8, top + 17 * number), line, fill=(20, 20, 20), font=font
            )
        top += height
    storage.write_local(path, encode_png(np.asarray(sheet)))


def _fitted(frame: np.ndarray) -> np.ndarray:
    """The whole frame within a square of `FRAME_PX`."""
    height, width = frame.shape[:2]
    scale = FRAME_PX / max(height, width)
    return cv2.resize(
        frame,
        (max(1, round(width * scale)), max(1, round(height * scale))),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
    )
