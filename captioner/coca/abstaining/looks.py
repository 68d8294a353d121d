"""A coarse look of a clip, and its distance to the nearest clip that a captioner was trained on.

A captioner that knows one small world is as sure of itself before any other: its own embedding puts a street
where a meadow would be. A coarse picture of colours and of how busy each part is does not, and the nearest
neighbour among training clips follows any number of kinds of them (Sun et al. 2022, arXiv:2204.06507, on deep
features).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from captioner.coca.folder import LOOKS
from learning.weights import read_weights, write_weights

GRID = 4
REFERENCES = 1500
LOW_SHARE = 0.005
"""Share of held-out clips that are sent away."""


def look(frames: np.ndarray) -> np.ndarray:
    """[GRID * GRID * 4] of frames [T, h, w, 3] uint8: mean colour and log contrast of each part.

    Of the middle frame.
    """
    picture = frames[len(frames) // 2].astype(np.float32) / 255
    colours = cv2.resize(picture, (GRID, GRID), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    busy = cv2.resize(np.abs(grey - cv2.blur(grey, (3, 3))), (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.concatenate([colours.ravel(), np.log(busy + 1e-3).ravel()])


@dataclass(frozen=True)
class Looks:
    """Looks of training clips [N, D], standardised, and the largest distance that is still alike.

    `mean` and `deviation` are [D].
    """

    known: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    far: float

    @staticmethod
    def measure(trained_on: Sequence[np.ndarray], held_out: Sequence[np.ndarray]) -> Looks:
        """Looks of frames [T, h, w, 3] of training clips, and of others like them for the threshold."""
        rows = np.stack(
            [look(frames) for frames in trained_on[:: max(1, len(trained_on) // REFERENCES)][:REFERENCES]]
        )
        mean, deviation = rows.mean(0), rows.std(0) + 1e-6
        draft = Looks(((rows - mean) / deviation).astype(np.float16), mean, deviation, 0.0)
        far = float(np.quantile([draft.distance(frames) for frames in held_out], 1 - LOW_SHARE))
        return Looks(draft.known, mean, deviation, far)

    def distance(self, frames: np.ndarray) -> float:
        """To the nearest training clip, in deviations."""
        away = self.known.astype(np.float32) - (look(frames) - self.mean) / self.deviation
        return float(np.sqrt((away**2).sum(1).min()))

    def reasons(self, frames: np.ndarray) -> list[str]:
        """Why a caption of these frames should not be believed; empty if it may be."""
        distance = self.distance(frames)
        return [f"look:{distance:.2f}>{self.far:.2f}"] if distance > self.far else []

    def save(self, folder: Path) -> None:
        arrays = {
            "known": self.known,
            "mean": self.mean,
            "deviation": self.deviation,
            "far": np.array([self.far], np.float32),
        }
        plain = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
        write_weights(plain, folder / LOOKS)

    @staticmethod
    def load(folder: Path) -> Looks | None:
        """None where the captioner has none: it then never abstains by looks."""
        if not (folder / LOOKS).exists():
            return None
        found = {name: value.numpy() for name, value in read_weights(folder / LOOKS).items()}
        return Looks(found["known"], found["mean"], found["deviation"], float(found["far"][0]))
