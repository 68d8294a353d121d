"""Which clips are kept for validation: whole sources, and those that share near-duplicates with them.

Clips of one source show the same place and people. A model that has trained on one of them has an easy time
with the others, and validation would not see it memorise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.fingerprint import draw_of
from manifests.layout import Dataset
from manifests.store import storage
from manifests.store.json_files import parse_json
from manifests.tables import scans
from manifests.tables.ids import source_of
from manifests.views import View
from trainer.data.columns import CHUNK

_NOTED = "held-out.json"


def draws_of(names: Iterable[str], count: int) -> np.ndarray:
    """`draw_of` of each, [count]."""
    return np.fromiter((draw_of(name) for name in names), dtype=np.float64, count=count)


def is_held_out(clip_id: str, share: float, plan_version: int = 3) -> bool:
    """Whether a clip's source is drawn for validation: a function of its id alone, the same in every run."""
    return draw_of(clip_id if plan_version == 2 else source_of(clip_id)) < share


def sources_of(clip_ids: np.ndarray) -> pa.DictionaryArray:
    """`source_of` of each of some ids [n], as bytes: numbers of names, in the order of their first clip."""
    begins = range(0, len(clip_ids), CHUNK)
    texts = pa.chunked_array([pa.array(clip_ids[at : at + CHUNK], pa.binary()) for at in begins], pa.binary())
    texts = texts.cast(pa.string()).combine_chunks()
    return pc.dictionary_encode(pc.replace_substring_regex(texts, r"^(.+)-[0-9]+$", r"\1"))


def _families(sources: list[str], groups: Iterable[Iterable[str]]) -> tuple[np.ndarray, list[str]]:
    """The number of each source's family, and the families' names.

    Sources that are joined by near-duplicates are one family, named by the first of them.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for group in groups:
        first, *others = sorted({root(source_of(name)) for name in group}) or [""]
        parent.update(dict.fromkeys(others, first))
    names, family = list(sources), np.arange(len(sources))
    number_of = {name: number for number, name in enumerate(sources) if name in parent}
    for name, number in list(number_of.items()):
        first = root(name)
        if first not in number_of:  # of a clip that is not among these
            number_of[first] = len(names)
            names.append(first)
        family[number] = number_of[first]
    return family, names


def held_out(clip_ids: np.ndarray, groups: Iterable[Iterable[str]], share: float) -> np.ndarray:
    """Which clips are for validation, about `share` of them: [n] bool for ids [n], as sorted bytes.

    A family that is more than `share` of all clips stays in training: it would leave too little of it. Where
    no family is drawn the one with the lowest number is taken; where all are that large, single clips are.

    Args:
        groups: clips that are near-duplicates of each other.
    """
    count = len(clip_ids)
    if not share or not count:
        return np.zeros(count, dtype=bool)
    coded = sources_of(clip_ids)
    family, names = _families(coded.dictionary.to_pylist(), groups)
    own = family[coded.indices.to_numpy()]  # the family of each clip
    sizes = np.bincount(own, minlength=len(names))
    is_small = (sizes > 0) & (sizes <= max(1.0, share * count))
    if not is_small.any() or np.count_nonzero(sizes) == 1:
        return draws_of((bytes(name).decode() for name in clip_ids), count) < share
    draws = draws_of(names, len(names))
    drawn = is_small & (draws < share)
    if not drawn.any():
        drawn[int(np.argmin(np.where(is_small, draws, np.inf)))] = True
    return drawn[own]  # type: ignore[no-any-return]


def note_held_out(out: Path, clip_ids: Iterable[str]) -> None:
    """Note in a run's folder which sources it holds out, once: more data must not move them into training."""
    path = out / _NOTED
    if not path.exists():
        storage.write_local(path, json.dumps(sorted({source_of(name) for name in clip_ids})).encode())


def noted_held_out(out: Path) -> set[str]:
    """The sources that the run in a folder holds out; none where it is new, or of an earlier version."""
    path = out / _NOTED
    if not path.exists():
        return set()
    return set(map(str, parse_json(path.read_bytes(), str(path), "Take it from a copy of the run.")))


def duplicates(dataset: Dataset, view: View) -> list[list[str]]:
    """Groups of near-duplicates that deduplication found; none where the view has no such column."""
    if "dedup" not in view.columns:
        return []
    fields, is_in_group = ["clip_id", "group_id"], pc.field("group_id") != ""
    table: pa.Table = scans.table(dataset, "duplicates", view.column("dedup"), fields, is_in_group)
    groups: dict[str, list[str]] = {}
    for batch in table.to_batches(max_chunksize=1 << 16):
        for row in batch.to_pylist():
            groups.setdefault(row["group_id"] or row["clip_id"], []).append(row["clip_id"])
    return [group for group in groups.values() if len(group) > 1]
