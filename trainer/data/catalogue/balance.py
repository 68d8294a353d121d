"""Weights of clips from a query, or from columns whose values shall be shown equally often."""

from __future__ import annotations

import math
import re
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from manifests.cli import say
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.sql import predicates, queries
from manifests.views import View

MOST = 16.0
"""So many times as often as the mean a clip of a rare value is shown at most."""
_NAMES = re.compile(r"[a-z_][a-z0-9_]*(\s*,\s*[a-z_][a-z0-9_]*)*")


def balance(dataset: Dataset, view: View, said: str, clips: list[str]) -> dict[str, float]:
    """How often each clip is shown in an epoch, 1 on average.

    Args:
        said: names of columns of `clips`, with commas: each combination of their values is shown equally
            often (but no clip more than `MOST` times as often as the mean); or a query that gives `clip_id`
            and `weight`, in which clips that it leaves out have 0.
        clips: what is trained on.

    Raises:
        UsageError: it is neither, or gives another answer each time; or a weight is below 0 or no number, or
            all are 0.
    """
    is_columns = _NAMES.fullmatch(said.strip()) is not None
    whose = f"--balance {said!r}"
    query = f"SELECT clip_id, {said} FROM clips" if is_columns else said
    rows = queries.sql(dataset, query, view.columns, whose=whose)
    predicates.check_settled(query, whose)
    if "clip_id" not in rows.column_names or not pa.types.is_string(rows.schema.field("clip_id").type):
        raise UsageError(whose, "gives no clip_id", "Name clip_id and weight in the query.")
    ids = rows["clip_id"].to_pylist()
    if len(set(ids)) < len(ids):
        raise UsageError(whose, "gives some clips more than once", "Group by clip_id.")
    if is_columns:
        return _by_value(dict(zip(ids, _values(rows), strict=True)), clips)
    if "weight" not in rows.column_names:
        raise UsageError(whose, "gives no weight", "Name clip_id and weight in the query.")
    found = _numbers(whose, ids, rows["weight"].to_pylist())
    weight = np.array([found.get(name, 0.0) for name in clips])
    if not (weight > 0).any():
        raise UsageError(
            whose,
            f"gives 0 for all {len(clips)} clips that are trained on; it names {len(found)} clips",
            "Look at what it gives with `rushes query DATASET`.",
        )
    if num_left_out := int((weight == 0).sum()):
        say(f"{whose}: {num_left_out} of {len(clips)} clips have weight 0 and are never shown")
    weight /= weight.max()
    return dict(zip(clips, (weight / weight.mean()).tolist(), strict=True))


def _numbers(whose: str, ids: list[str], weights: list[Any]) -> dict[str, float]:
    """Weights by clip.

    Raises:
        UsageError: one is no number from 0 on.
    """
    for clip_id, weight in zip(ids, weights, strict=True):
        is_number = isinstance(weight, int | float | Decimal)
        if not is_number or not math.isfinite(weight) or weight < 0:
            raise UsageError(
                whose,
                f"gives clip {clip_id} the weight {'null' if weight is None else weight}",
                "A weight is a finite number from 0 on; coalesce(value, 0) makes one of null.",
            )
    return dict(zip(ids, map(float, weights), strict=True))


def _values(rows: pa.Table) -> list[str]:
    """What each row says in its columns but the first."""
    return [repr(list(row.values())[1:]) for row in rows.to_pylist()]


def _by_value(value_of: dict[str, str], clips: list[str]) -> dict[str, float]:
    """Each value as often as the others among these clips, and no clip more than `MOST`."""
    counts = Counter(value_of.get(name, "") for name in clips)
    share = np.array([1 / counts[value_of.get(name, "")] for name in clips])
    ranked, num_capped = np.sort(share)[::-1], 0
    rest = np.append(np.cumsum(ranked[::-1])[::-1], 0.0)
    while True:  # what is cut off the rarest goes to the others, so that the mean stays 1
        factor = (len(clips) - num_capped * MOST) / rest[num_capped]
        if num_capped + 1 >= len(clips) or ranked[num_capped] * factor <= MOST:
            break
        num_capped += 1
    return dict(zip(clips, np.minimum(share * factor, MOST).tolist(), strict=True))
