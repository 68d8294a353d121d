"""Mean and deviation of each latent channel in one pass, mergeable across shards.

Welford 1962; Chan et al. 1979.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from manifests.layout import Column, Dataset
from manifests.tables import scans
from vae.pixels import as_float
from vae.protocol import VAE


class ChannelStats:
    """Running mean and variance of each channel."""

    def __init__(self, channels: int) -> None:
        self.count, self.mean, self.m2 = 0, np.zeros(channels), np.zeros(channels)

    def add(self, latent: Tensor) -> None:
        """latent: [C, t, h, w]."""
        flat = latent.flatten(1).double().cpu().numpy()
        mean = flat.mean(1)
        self.merge(flat.shape[1], mean, ((flat - mean[:, None]) ** 2).sum(1))

    def merge(self, count: int, mean: np.ndarray, m2: np.ndarray) -> None:
        """Take in the statistics of other latents."""
        total, delta = self.count + count, mean - self.mean
        if total == 0:
            return
        self.mean = self.mean + delta * count / total
        self.m2 = self.m2 + m2 + delta**2 * self.count * count / total
        self.count = total

    def to_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean.tolist(), "m2": self.m2.tolist()}

    def std(self) -> np.ndarray:
        """[C], never below 1e-6."""
        return np.sqrt(np.maximum(self.m2 / max(1, self.count), 1e-12))


def merged(parts: Iterable[dict[str, Any]]) -> ChannelStats | None:
    """Statistics over all shards from those of each; None where no shard has any."""
    total: ChannelStats | None = None
    for part in parts:
        if part.get("count"):
            total = total or ChannelStats(len(part["mean"]))
            total.merge(part["count"], np.array(part["mean"]), np.array(part["m2"]))
    return total


def corpus_stats(dataset: Dataset, column: Column) -> dict[str, Any]:
    """Number of cells, mean and std of each channel of a latent column, from its commit records.

    And `vae`, the digest of its weights; empty where some records are from before it was written down.
    """
    rows = scans.table(dataset, "shards", column, ["stats_json"])["stats_json"].to_pylist()
    parts = [json.loads(text) for text in rows if text]
    total, digests = merged(parts), {part.get("vae", "") for part in parts}
    vae = digests.pop() if len(digests) == 1 else ""
    if total is None:
        return {"count": 0, "mean": [], "std": [], "vae": vae}
    return {"count": total.count, "mean": total.mean.tolist(), "std": total.std().tolist(), "vae": vae}


def channel_stats(vae: VAE, clips: list[Tensor]) -> dict[str, list[float]]:
    """Mean and std of each channel over clips [3, T, H, W] uint8."""
    stats = ChannelStats(vae.latent_channels)
    for clip in clips:
        stats.add(vae.encode(as_float(clip)).mean)
    return {"mean": stats.mean.round(4).tolist(), "std": stats.std().round(4).tolist()}
