"""Pairs of clips whose embeddings are alike: all pairs of a few, cells of many (FAISS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALL_PAIRS = 2e9
"""Pairs of 512-wide vectors up to which all are compared, exactly; of other widths in proportion."""
PROBES = 16
"""Cells that are looked into for each clip: of copies at a cosine of .97 none of 10,000 was lost."""
_ROWS = 2048


@dataclass(frozen=True)
class Vectors:
    """Unit vectors [n, d] float32 of clips, by their ids."""

    ids: Sequence[str]
    table: np.ndarray


def embedding_pairs(
    vectors: Vectors, threshold: float, new: set[str] | None = None, all_pairs: float = ALL_PAIRS
) -> tuple[list[str], list[str]]:
    """Clips and others whose vectors have a cosine of at least `threshold`, each pair once.

    Args:
        new: only pairs with one of these are asked for; None asks for all.
        all_pairs: up to how many pairs are compared one by one.
    """
    ids = list(vectors.ids)
    table = np.ascontiguousarray(vectors.table, np.float32)
    rows = (
        np.arange(len(ids))
        if new is None
        else np.array([i for i, name in enumerate(ids) if name in new], int)
    )
    if not len(rows):
        return [], []
    small = len(rows) * len(ids) * table.shape[1] <= all_pairs * 512
    one, two = (_all if small else _by_cells)(table, rows, threshold)
    pairs = np.unique(np.sort(np.stack([one, two], 1)[one != two], axis=1), axis=0)
    return [ids[place] for place in pairs[:, 0]], [ids[place] for place in pairs[:, 1]]


def _all(table: np.ndarray, rows: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and places of all pairs, in blocks."""
    found = [np.zeros((0, 2), np.int64)]
    for begin in range(0, len(rows), _ROWS):
        own = rows[begin : begin + _ROWS]
        for left in range(0, len(table), _ROWS):
            at, other = np.nonzero(table[own] @ table[left : left + _ROWS].T >= threshold)
            found.append(np.stack([own[at], left + other], 1))
    return tuple(np.concatenate(found).T)


def _by_cells(table: np.ndarray, rows: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and places of pairs that share a cell: those next to which one of them lies.

    K-means makes four times as many cells as the root of the clips' number; see Johnson, Douze and Jegou,
    "Billion-scale similarity search with GPUs", 2017.
    """
    import faiss

    cells = max(1, int(4 * np.sqrt(len(table))))
    quantizer = faiss.IndexFlatIP(table.shape[1])
    index = faiss.IndexIVFFlat(quantizer, table.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 1, 64
    index.cp.spherical = True
    index.train(table)
    index.add(table)
    index.nprobe = min(PROBES, cells)
    found = [np.zeros((0, 2), np.int64)]
    for begin in range(0, len(rows), _ROWS):
        own = rows[begin : begin + _ROWS]
        limits, _, others = index.range_search(table[own], threshold - 1e-6)
        found.append(np.stack([np.repeat(own, np.diff(limits.astype(np.int64))), others], 1))
    return tuple(np.concatenate(found).T)
