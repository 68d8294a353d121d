"""The `text` score: share of the picture that text covers, and the words, as RapidOCR reads them.

Its PP-OCR models come in its wheel (Apache-2.0): nothing is downloaded. See the extra `ocr`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from manifests.errors import UsageError
from pipeline.scores.protocol import Score

MIN_CONFIDENCE = 0.8
"""Of a line that is believed."""
MAX_SIDE_PX = 960
"""Larger pictures are made smaller before they are read, smaller ones stay as they are."""
_MOST_LINES = 12


class Words:
    """Share of the area, mean over frames; words of the lines that are surely read, most certain first."""

    name, frames = "text", 3

    def __init__(self) -> None:
        try:
            self.version = f"rapidocr-{importlib.metadata.version('rapidocr')}/1"
        except importlib.metadata.PackageNotFoundError as error:
            raise UsageError(
                "--score.use text", "needs RapidOCR", "Install rushes with its extra `ocr`, on all nodes."
            ) from error

    def setup(self) -> None:
        from rapidocr import RapidOCR

        engine = "EngineConfig.onnxruntime"
        self._read = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": False,
                "Det.limit_type": "max",
                "Det.limit_side_len": MAX_SIDE_PX,
                f"{engine}.intra_op_num_threads": 1,
                f"{engine}.inter_op_num_threads": 1,
            }
        )

    def score(self, clips: Sequence[Sequence[np.ndarray]]) -> list[Score]:
        return [self._one(pictures) for pictures in clips]

    def _one(self, pictures: Sequence[np.ndarray]) -> Score:
        shares, lines = list[float](), dict[str, float]()
        for rgb in pictures:
            found: Any = self._read(np.ascontiguousarray(rgb[..., ::-1]))  # it takes BGR
            share = 0.0
            if found.txts is not None:
                for text, sure, box in zip(found.txts, found.scores, found.boxes, strict=True):
                    if sure >= MIN_CONFIDENCE and (text := " ".join(text.split())):
                        share += cv2.contourArea(np.asarray(box, np.float32)) / (rgb.shape[0] * rgb.shape[1])
                        lines[text] = max(float(sure), lines.get(text, 0.0))
            shares.append(min(share, 1.0))
        ranked = sorted(lines, key=lambda text: (-round(lines[text], 2), text))
        return Score(float(np.mean(shares)), tuple(ranked[:_MOST_LINES]))
