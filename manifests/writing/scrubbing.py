"""The plan and the texts of a dataset without sources that are taken down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from manifests.layout import Dataset
from manifests.schemas import to_table, with_parts
from manifests.store import storage
from manifests.tables import planned
from manifests.tables.parts import read_part
from manifests.writing.commit import parquet_bytes

_TEXTS = (".json", ".jsonl", ".txt", ".csv", ".html", ".md")
_FOLDERS = ("runs", "training", "views")


def scrub_plan(dataset: Dataset, ids: Collection[str]) -> None:
    """Write every generation anew that has rows of the sources."""
    for generation in dataset.generations():
        _scrub_generation(dataset, generation, pa.array(sorted(ids), pa.string()))


def _scrub_generation(dataset: Dataset, generation: int, ids: pa.Array) -> None:
    """Its tables first, then the segments, which name them."""
    path, digests = dataset.plan_path(generation), dict(planned.digests(dataset, generation))
    segments = read_part(dataset, path)
    stay = pc.invert(pc.is_in(segments["source_id"], ids))
    old, is_same, places = [], pc.all(stay).as_py() is not False, dict[int, int]()
    for name in planned.NAMES:
        own = planned.part(dataset, name, generation)
        rows = read_part(dataset, own)
        kept = pc.invert(pc.fill_null(pc.is_in(rows["source_id"], ids), False))
        if pc.all(kept).as_py() is not False:
            continue
        is_same = False
        if name == "sources":
            rest = [place for place, is_kept in enumerate(kept.to_pylist()) if is_kept]
            places = {before: now for now, before in enumerate(rest)}
        data = parquet_bytes(to_table(name, rows.filter(kept).to_pylist()))
        digests[name] = hashlib.sha256(data).hexdigest()
        storage.write_bytes(dataset.filesystem, dataset.plan_part_path(name, generation, digests[name]), data)
        old.append(own)
    if is_same:
        return
    found = segments.filter(stay).to_pylist()
    for row in found:
        if places and row.get("source_row") is not None:
            row["source_row"] = places[row["source_row"]]
    data = parquet_bytes(with_parts(to_table("segments", found), digests))
    storage.write_bytes(dataset.filesystem, path, data)
    now = {planned.part(dataset, name, generation) for name in planned.NAMES}
    storage.delete_files(dataset.filesystem, [one for one in old if one not in now])


def scrub_texts(dataset: Dataset, words: Mapping[str, str]) -> list[str]:
    """Put tokens in the place of words in all texts of runs, trainings and views.

    Args:
        words: by each word, longest first: what stands for it.

    Returns:
        Trainings that had read of them.
    """
    longest = sorted(words.items(), key=lambda item: -len(item[0]))
    spelled = [(spelling, its) for word, its in longest for spelling in {word, json.dumps(word)[1:-1]}]
    runs, gone = set[str](), list[str]()
    for folder in _FOLDERS:
        for info in storage.list_files(dataset.filesystem, dataset.path(folder)):
            parts = PurePosixPath(dataset.relative(info.path)).parts
            if parts[:2] in (("runs", "withdrawn"), ("runs", "replay")):
                gone.append(info.path)  # of no use once their rows have changed
                continue
            if not info.path.endswith(_TEXTS):
                continue
            data = storage.read_bytes(dataset.filesystem, info.path)
            changed = data
            for word, its in spelled:
                changed = changed.replace(word.encode(), its.encode())
            if changed != data:
                storage.write_bytes(dataset.filesystem, info.path, changed)
                if folder == "training" and parts[-1].startswith("consumed"):
                    runs.add(parts[1])
    storage.delete_files(dataset.filesystem, gone)
    return sorted(runs)
