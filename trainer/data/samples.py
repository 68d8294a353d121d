"""Samples as columns of numbers: one clip each, how often an epoch shows it, and which part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from trainer.data.columns import Names

Size = tuple[int, int, int]


class Window(NamedTuple):
    """A part of a latent: [start, start + length) in time, and a rectangle of cells.

    What a sample over the budget is cut to.
    """

    start: int
    length: int
    top: int
    height: int
    left: int
    width: int

    def tokens(self, patch: Size) -> int:
        """Tokens of this part, whole patches."""
        return -(-self.length // patch[0]) * -(-self.height // patch[1]) * -(-self.width // patch[2])


@dataclass(frozen=True)
class Sample:
    """One showing of a clip: `latent_t` latents from `start` on, cells from (`top`, `left`) on.

    `repeat` counts the showings of a clip in an epoch that has several; `view` is the position of the view it
    comes from among those that are mixed.
    """

    clip_id: str
    shard: int
    latent_t: int
    latent_h: int
    latent_w: int
    start: int = 0
    top: int = 0
    left: int = 0
    repeat: int = 0
    view: int = 0

    @property
    def window(self) -> Window:
        """What is shown of the clip's latent."""
        return Window(self.start, self.latent_t, self.top, self.latent_h, self.left, self.latent_w)

    def tokens(self, patch: Size) -> int:
        return -(-self.latent_t // patch[0]) * -(-self.latent_h // patch[1]) * -(-self.latent_w // patch[2])


@dataclass(frozen=True)
class SampleTable:
    """Samples as columns of one length n.

    Attributes:
        clip_ids, shard, latent_t, latent_h, latent_w: ids, shards and latent sizes.
        weight: showings of each in an epoch, of any size; None: one each.
        view: which of the mixed views each is of; None: the only one.
        fps: frames per second, 0 for images; None: not known.
        limit_t: most latents of each to show at once, a window of them if it has more; None: all.
    """

    clip_ids: Sequence[str]
    shard: np.ndarray
    latent_t: np.ndarray
    latent_h: np.ndarray
    latent_w: np.ndarray
    weight: np.ndarray | None = None
    view: np.ndarray | None = None
    fps: np.ndarray | None = None
    limit_t: np.ndarray | None = None

    @staticmethod
    def of(samples: Sequence[Sample]) -> SampleTable:
        shard, t, h, w, view = (
            np.array([getattr(sample, name) for sample in samples], dtype=np.int64)
            for name in ("shard", "latent_t", "latent_h", "latent_w", "view")
        )
        return SampleTable(
            [sample.clip_id for sample in samples], shard, t, h, w, view=view if view.any() else None
        )

    def __len__(self) -> int:
        return len(self.clip_ids)

    def where(self, keep: np.ndarray) -> SampleTable:
        """The rows for which `keep` [n] is true."""
        parts = {name: value[keep] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        rows = np.flatnonzero(keep)
        names = (
            self.clip_ids.take(rows)
            if isinstance(self.clip_ids, Names)
            else [self.clip_ids[index] for index in rows.tolist()]
        )
        return replace(self, clip_ids=names, **parts)

    def per_frame(self, patch: Size) -> np.ndarray:
        """Tokens of one layer of patches in time, [n]."""
        return -(-self.latent_h // patch[1]) * -(-self.latent_w // patch[2])

    def draws(self, epoch: int) -> np.ndarray | None:
        """Showings of each sample in an epoch, [n]; None: one each.

        A weight of 2 shows a sample twice in every epoch, one of 0.25 in one of four epochs in a row, each
        sample in its own: over many epochs each is shown as often as its weight says, to within one.
        """
        if self.weight is None:
            return None
        phase = np.arange(len(self)) * 0.6180339887498949 % 1.0  # spread evenly, whatever the weight
        return np.floor((epoch + 1) * self.weight + phase).astype(np.int64) - np.floor(
            epoch * self.weight + phase
        ).astype(np.int64)
