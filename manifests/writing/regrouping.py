"""Groups of near-duplicates of which clips are removed: the longest copy takes a kept clip's place.

What the others are to that one is not known here: the next ingest searches again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import pyarrow as pa

from manifests.schemas import to_table
from manifests.tables.ids import source_of

Regroups = dict[str, tuple[str, bool, float | None] | None]
"""By clip: its group now, whether it is kept, and its distance; None where it is alone and in no group."""


def regrouped(rows: list[dict], ids: Collection[str], seconds: Mapping[str, float]) -> Regroups:
    """What changes for the clips that stay.

    Args:
        rows: of the whole `duplicates` table.
        ids: sources whose clips go.
        seconds: that clips last; a part may not stand for the whole.
    """

    def rank(row: dict) -> tuple[bool, float, float, str]:
        """The first by this stands for a group: the one that did, else the longest, then the nearest."""
        distance = float("inf") if row["distance"] is None else row["distance"]
        return not row["is_kept"], -seconds.get(row["clip_id"], 0.0), distance, row["clip_id"]

    groups: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        groups[row["group_id"]].append(row)
    found: Regroups = {}
    for members in groups.values():
        stay = [row for row in members if source_of(row["clip_id"]) not in ids]
        if len(stay) == len(members) or not stay:
            continue
        kept = min(stay, key=rank)
        if len(stay) == 1:
            found[kept["clip_id"]] = None
            continue
        for row in stay:
            is_kept = row is kept
            distance = row["distance"] if kept["is_kept"] else None  # it is that to the clip that went
            found[row["clip_id"]] = (kept["clip_id"], is_kept, 0.0 if is_kept else distance)
    return found


def without_groups(name: str, rows: pa.Table, regroups: Regroups) -> pa.Table:
    """Rows of `duplicates` or of deduplication's `drops` as the groups are now."""
    if not regroups:
        return rows
    found = []
    for row in rows.to_pylist():
        clip_id = row["clip_id"] if name == "duplicates" else row["item_id"].partition(" ")[0]
        if clip_id not in regroups:
            found.append(row)
            continue
        now = regroups[clip_id]
        if now is None:
            continue
        group_id, is_kept, distance = now
        if name == "duplicates":
            found.append(row | {"group_id": group_id, "is_kept": is_kept, "distance": distance})
        elif not is_kept:
            found.append(row | {"item_id": f"{clip_id} of {group_id}", "value": distance})
    return to_table(name, found)
