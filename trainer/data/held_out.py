"""Which clips are kept for validation: whole sources, and those that share near-duplicates with them.

Clips of one source show the same place and people. A model that has trained on one of them has an easy time
with the others, and validation would not see it memorise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from manifests.layout import Dataset
from manifests.store import storage
from manifests.tables import scans
from manifests.views import View

_NOTED = "held-out.json"


def source_of(clip_id: str) -> str:
    """The source that a clip was cut from; the clip itself where its id names none."""
    source, _, begin = clip_id.rpartition("-")
    return source if source and begin.isdigit() else clip_id


def draw_of(name: str) -> float:
    """A number from 0 to 1 that follows from a name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8


def is_held_out(clip_id: str, share: float, plan_version: int = 3) -> bool:
    """Whether a clip's source is drawn for validation: a function of its id alone, the same in every run."""
    return draw_of(clip_id if plan_version == 2 else source_of(clip_id)) < share


def families(clip_ids: Sequence[str], groups: Iterable[Iterable[str]]) -> dict[str, str]:
    """The name of each clip's family: sources that are joined by near-duplicates, named by the first of them.

    Args:
        groups: clips that are near-duplicates of each other.
    """
    parent: dict[str, str] = {source_of(name): source_of(name) for name in clip_ids}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for group in groups:
        first, *others = sorted({root(source_of(name)) for name in group}) or [""]
        parent.update(dict.fromkeys(others, first))
    return {name: root(source_of(name)) for name in clip_ids}


def held_out(clip_ids: Sequence[str], groups: Iterable[Iterable[str]], share: float) -> set[str]:
    """The clips for validation, about `share` of them.

    A family that is more than `share` of all clips stays in training: it would leave too little of it. Where
    no family is drawn the one with the lowest number is taken; where all are that large, single clips are.
    """
    if not share:
        return set()
    family, members = families(clip_ids, groups), dict[str, list[str]]()
    for name in clip_ids:
        members.setdefault(family[name], []).append(name)
    small = sorted(
        (name for name, own in members.items() if len(own) <= max(1.0, share * len(clip_ids))), key=draw_of
    )
    if not small or len(members) == 1:
        return {name for name in clip_ids if draw_of(name) < share}
    drawn = [name for name in small if draw_of(name) < share] or small[:1]
    return {clip for name in drawn for clip in members[name]}


def note_held_out(out: Path, clip_ids: Iterable[str]) -> None:
    """Note in a run's folder which sources it holds out, once: more data must not move them into training."""
    path = out / _NOTED
    if not path.exists():
        storage.write_local(path, json.dumps(sorted({source_of(name) for name in clip_ids})).encode())


def noted_held_out(out: Path) -> set[str]:
    """The sources that the run in a folder holds out; none where it is new, or of an earlier version."""
    path = out / _NOTED
    return set(json.loads(path.read_text())) if path.exists() else set()


def duplicates(dataset: Dataset, view: View) -> list[list[str]]:
    """Groups of near-duplicates that deduplication found; none where the view has no such column."""
    if "dedup" not in view.columns:
        return []
    fields = ["clip_id", "group_id"]
    table: pa.Table = scans.table(dataset, "duplicates", view.column("dedup"), fields)
    groups: dict[str, list[str]] = {}
    for row in table.to_pylist():
        groups.setdefault(row["group_id"] or row["clip_id"], []).append(row["clip_id"])
    return [group for group in groups.values() if len(group) > 1]
