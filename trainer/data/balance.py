"""Weights of clips from a query, or from columns whose values shall be shown equally often."""

from __future__ import annotations

import re

import numpy as np

from manifests import queries
from manifests.errors import UsageError
from manifests.layout import Dataset
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
        UsageError: it is neither, or a weight is below 0 or no number, or all are 0.
    """
    is_columns = _NAMES.fullmatch(said.strip()) is not None
    query = (
        f"SELECT clip_id, 1.0 / count(*) OVER (PARTITION BY {said}) AS weight FROM clips WHERE {view.where}"
        if is_columns
        else said
    )
    rows = queries.sql(dataset, query, view.columns)
    if not {"clip_id", "weight"} <= set(rows.column_names):
        raise UsageError(f"--balance {said!r}", "gives no clip_id and weight", "Name both in the query.")
    ids, values = rows["clip_id"].to_pylist(), rows["weight"].to_pylist()
    if len(set(ids)) < len(ids):
        raise UsageError(f"--balance {said!r}", "gives some clips more than once", "Group by clip_id.")
    try:
        found = dict(zip(ids, map(float, values), strict=True))
    except (TypeError, ValueError) as error:
        raise UsageError(f"--balance {said!r}", f"gives a weight that is no number ({error})") from error
    weight = np.array([found.get(name, 0.0) for name in clips])
    if not np.isfinite(weight).all() or (weight < 0).any() or not (weight > 0).any():
        raise UsageError(
            f"--balance {said!r}", "gives weights below 0, without end, or 0 for all that is trained on"
        )
    weight /= weight.mean()
    if is_columns:
        for _ in range(20):  # what is cut off the rarest goes to the others
            weight = np.minimum(weight, MOST) / np.minimum(weight, MOST).mean()
    return dict(zip(clips, weight.tolist(), strict=True))
