"""Scores by a linear head on open_clip's image embeddings: aesthetic, watermark, NSFW and their like.

A folder holds `open_clip/` (a model's own config and weights) and `head.safetensors` with `weight` [1, d] and
`bias` [1], trained on unit embeddings, as the heads of LAION's aesthetic predictors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from captioner.backends.weights import folder_digest
from manifests.errors import UsageError
from pipeline.scores.open_clip_model import ImageEncoder
from pipeline.scores.protocol import Score


class Head:
    """The mean over a clip's frames of weight · embedding + bias."""

    frames = 4

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        if not (folder / "open_clip").is_dir() or not (folder / "head.safetensors").is_file():
            raise UsageError(
                f"--score.use {name}={folder}",
                "is no folder with open_clip/ and head.safetensors",
                "See pipeline/scores/heads.py.",
            )
        self.version = f"head-{folder_digest(folder)[:16]}/1"

    def setup(self) -> None:
        from safetensors.numpy import load_file

        self._encoder = ImageEncoder(f"local-dir:{self.folder / 'open_clip'}", "", f"--score.use {self.name}")
        found = load_file(self.folder / "head.safetensors")
        try:
            self._weight, self._bias = found["weight"].reshape(-1), float(found["bias"].reshape(-1)[0])
        except (KeyError, IndexError) as error:
            raise UsageError(
                str(self.folder / "head.safetensors"),
                f"lacks {error}",
                "It holds weight [1, d] and bias [1].",
            ) from error

    def score(self, clips: Sequence[Sequence[np.ndarray]]) -> list[Score]:
        # alone on a processor: a batch's bits are not those of its clips
        lots = [clips] if self._encoder.device.type == "cuda" else [[pictures] for pictures in clips]
        units = [self._encoder.units([rgb for pictures in lot for rgb in pictures]) for lot in lots]
        vectors = np.concatenate(units)
        if vectors.shape[1] != len(self._weight):
            raise UsageError(
                str(self.folder),
                f"has a head for {len(self._weight)} values and a model that gives {vectors.shape[1]}",
                "Give the head's own model.",
            )
        values, ends = vectors @ self._weight + self._bias, np.cumsum([len(pictures) for pictures in clips])
        return [Score(float(own.mean())) for own in np.split(values, ends[:-1])]
