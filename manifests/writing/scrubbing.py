"""The plan and the texts of a dataset without sources that are taken down."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from manifests.layout import Dataset
from manifests.schemas import to_table, with_parts
from manifests.store import storage
from manifests.tables import planned
from manifests.tables.parts import read_part
from manifests.writing.commit import parquet_bytes

_NO_TEXT = (".safetensors", ".distcp", ".parquet", ".tar", ".png", ".jpg", ".webm", ".npy", ".bin", ".gz")
_PICTURES = (".png", ".jpg", ".webm")
_OF_A_CLIP = re.compile(r"[0-9a-f]{16}-\d{8}\b")
_BOARD = "events.out.tfevents"
"""Of TensorBoard, whose files hold sheets of samples; the same numbers are in the run's own logs."""


def scrub_plan(dataset: Dataset, ids: Collection[str], addresses: Collection[str] = ()) -> None:
    """Write every generation anew that has rows of the sources, or of what had failed at their addresses.

    What failed has another id: that of other bytes, which other files may have, or one of its address.
    """
    gone, failed = pa.array(sorted(ids), pa.string()), set[tuple[str, str]]()
    for generation in dataset.generations():
        rows = read_part(dataset, planned.part(dataset, "sources", generation))
        there = rows.filter(pc.is_in(rows["uri"], pa.array(sorted(addresses), pa.string())))
        tried = there.filter(pc.equal(there["status"], "failed")).select(["source_id", "uri"]).to_pylist()
        failed |= {(row["source_id"], row["uri"]) for row in tried}
    for generation in dataset.generations():
        _scrub_generation(dataset, generation, gone, failed)
    _remove_old_parts(dataset)


def _stays(rows: pa.Table, ids: pa.Array, failed: Collection[tuple[str, str]]) -> pa.ChunkedArray:
    """Which rows of a table of the plan stay."""
    of_ids = pc.fill_null(pc.is_in(rows["source_id"], ids), False)
    if not failed:
        return pc.invert(of_ids)
    pairs = zip(rows["source_id"].to_pylist(), rows["uri"].to_pylist(), strict=True)
    return pc.invert(pc.or_(of_ids, pa.chunked_array([[pair in failed for pair in pairs]], pa.bool_())))


def _scrub_generation(
    dataset: Dataset, generation: int, ids: pa.Array, failed: Collection[tuple[str, str]]
) -> None:
    """Its tables first, then the segments, which name them."""
    path, digests = dataset.plan_path(generation), dict(planned.digests(dataset, generation))
    segments = read_part(dataset, path)
    stay = pc.invert(pc.is_in(segments["source_id"], ids))
    is_same, places = pc.all(stay).as_py() is not False, dict[int, int]()
    for name in planned.NAMES:
        own = planned.part(dataset, name, generation)
        rows = read_part(dataset, own)
        kept = _stays(rows, ids, failed)
        if pc.all(kept).as_py() is not False:
            continue
        is_same = False
        if name == "sources":
            rest = [place for place, is_kept in enumerate(kept.to_pylist()) if is_kept]
            places = {before: now for now, before in enumerate(rest)}
        data = parquet_bytes(to_table(name, rows.filter(kept).to_pylist()))
        digests[name] = hashlib.sha256(data).hexdigest()
        storage.write_bytes(dataset.filesystem, dataset.plan_part_path(name, generation, digests[name]), data)
    if not is_same:
        found = segments.filter(stay).to_pylist()
        for row in found:
            if places and row.get("source_row") is not None:
                row["source_row"] = places[row["source_row"]]
        data = parquet_bytes(with_parts(to_table("segments", found), digests))
        storage.write_bytes(dataset.filesystem, path, data)


def _remove_old_parts(dataset: Dataset) -> None:
    """Remove tables of the plan that no generation names, also where the takedown died before."""
    named = {
        planned.part(dataset, name, number) for name in planned.NAMES for number in dataset.generations()
    }
    for name in planned.NAMES:
        infos = storage.list_files(dataset.filesystem, dataset.path("tables", name, "plan"), ".parquet")
        storage.delete_files(dataset.filesystem, [info.path for info in infos if info.path not in named])


_BEFORE, _AFTER = r"(?<![\w/.-])", r"(?![^\s\"'<>&\\,;:#)\]}])"
"""An address ends where no letter of another goes on."""


def _pattern(words: Mapping[str, str]) -> re.Pattern[str]:
    """Finds the words in any spelling, and no longer word that only begins or ends with one."""
    found = list[str]()
    for word in sorted(words, key=len, reverse=True):
        if re.fullmatch(r"[0-9a-f]+", word):
            found.append(f"(?<![0-9a-f]){word}(?![0-9a-f])")
        else:
            spellings = {word, json.dumps(word)[1:-1], html.escape(word)}
            found += [rf"{_BEFORE}{re.escape(spelling)}{_AFTER}" for spelling in spellings]
    return re.compile("|".join(found))


def replaced(text: str, words: Mapping[str, str]) -> str:
    """A text with tokens in the place of words."""
    spelled = {html.escape(word): its for word, its in words.items()}
    spelled |= {json.dumps(word)[1:-1]: its for word, its in words.items()} | dict(words)
    return _pattern(words).sub(lambda found: spelled[found[0]], text)


def _texts(dataset: Dataset, folder: str) -> Iterator[tuple[str, str]]:
    """Paths and texts of all files of a folder that hold text."""
    for info in storage.list_files(dataset.filesystem, dataset.path(folder)):
        if not info.path.endswith(_NO_TEXT):
            try:
                yield info.path, storage.read_bytes(dataset.filesystem, info.path).decode()
            except UnicodeDecodeError:
                continue


def trainings_with(dataset: Dataset, words: Mapping[str, str]) -> list[str]:
    """Trainings in the dataset whose texts have one of the words."""
    pattern = _pattern(words)
    return sorted(
        {
            PurePosixPath(dataset.relative(path)).parts[1]
            for path, text in _texts(dataset, "training")
            if pattern.search(text)
        }
    )


def scrub_texts(dataset: Dataset, words: Mapping[str, str], read_by: Collection[str]) -> None:
    """Put tokens in the place of words in all texts of runs, trainings and views.

    Commits taken back, what replays made, notes of probing, and of trainings that read of the sources the
    pictures go whole, but for those of one other clip alone.
    """
    pattern, gone = _pattern(words), list[str]()
    for folder in ("runs", "training"):
        for info in storage.list_files(dataset.filesystem, dataset.path(folder)):
            parts = PurePosixPath(dataset.relative(info.path)).parts
            is_old = folder == "runs" and parts[1] in ("withdrawn", "replay", "probed")
            is_seen = folder == "training" and parts[1] in read_by and _may_show(parts[-1])
            if is_old or is_seen or pattern.search(info.base_name):
                gone.append(info.path)
    storage.delete_files(dataset.filesystem, gone)
    for folder in ("runs", "training", "views"):
        for path, text in _texts(dataset, folder):
            changed = replaced(text, words)
            if path.endswith("/summary.json") and folder == "runs":
                changed = _without_captions(changed)
            if changed != text:
                storage.write_bytes(dataset.filesystem, path, changed.encode())


def _may_show(name: str) -> bool:
    """Whether a file of a training may show any clip."""
    return name.startswith(_BOARD) or (name.endswith(_PICTURES) and not _OF_A_CLIP.match(name))


def _without_captions(text: str) -> str:
    """A run's summary without the captions that it quotes, whoever they are of."""
    try:
        summary = json.loads(text)
        summary["captions"]["duplicates"] = []
    except (ValueError, KeyError, TypeError):
        return text
    return json.dumps(summary, indent=2)
