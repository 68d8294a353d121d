"""Verdicts of people on captions: read from the dashboard's file, kept as a column to ask for in views."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import UsageError
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.schemas import to_table
from manifests.tables import scans
from manifests.text import valid
from manifests.writing.compact import commit_version, record

CODE_VERSION = 1
VERDICTS = ("right", "minor", "wrong", "unsure")


def latest(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The last verdict of each person on each caption; what was undone is not among them, nor is a line that
    was cut or says something else."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            who, caption_id, tags = row["who"], row["caption_id"], row.get("tags") or []
            if not isinstance(who, str) or not isinstance(caption_id, str) or not isinstance(tags, list):
                continue
            who, caption_id, tags = valid(who), valid(caption_id), [valid(str(tag)) for tag in tags]
            found[who, caption_id] = {**row, "who": who, "caption_id": caption_id, "tags": tags}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return [row for row in found.values() if row.get("verdict") in VERDICTS]


def unread(lines: Iterable[str]) -> list[int]:
    """Numbers, from 1, of the lines that hold no verdict: cut off, or with a word that is none.

    The dashboard keeps choices between two versions in the same file.
    """
    return [
        number
        for number, line in enumerate(lines, 1)
        if line.strip() and not latest([line]) and '"undone"' not in line and not _is_choice(line)
    ]


def _is_choice(line: str) -> bool:
    try:
        row = json.loads(line)
        return isinstance(row, dict) and isinstance(row.get("choice"), str) and len(row["versions"]) > 0
    except (ValueError, KeyError, TypeError):
        return False


def take_in(dataset: Dataset, path: Path) -> tuple[Column, int, int, list[int]]:
    """Commit a file's verdicts as a column.

    Returns:
        The column, rows in it, verdicts on captions that the dataset does not have, and numbers of the lines
        that hold no verdict.

    Raises:
        UsageError: the file cannot be read, or says nothing of this dataset's captions.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UsageError(
            str(path), f"cannot be read ({error.strerror})", "Name the file of verdicts."
        ) from error
    said, bad_lines = latest(lines), unread(lines)
    wanted = pa.array(sorted({row["caption_id"] for row in said}), pa.string())
    where = pc.field("caption_id").isin(wanted)
    captions = {
        row["caption_id"]: row
        for row in scans.table(
            dataset, "captions", None, ["caption_id", "clip_id", "shard"], where
        ).to_pylist()
    }
    rows = [
        {
            **captions[row["caption_id"]],
            "who": str(row["who"]),
            "verdict": row["verdict"],
            "tags": sorted(str(tag) for tag in row.get("tags") or ()),
        }
        for row in said
        if row["caption_id"] in captions
    ]
    if not rows:
        raise UsageError(
            str(path),
            f"has no verdict on a caption here: {len(said)} are on others, {len(bad_lines)} lines hold none",
            f"A verdict is one of {', '.join(VERDICTS)}; see `rushes dashboard --verdicts`.",
        )
    rows.sort(key=lambda row: (row["shard"], row["clip_id"], row["caption_id"], row["who"]))
    column = Column("verdict", fingerprint("verdict", CODE_VERSION, {"rows": rows}, {}))
    clips = defaultdict[int, set[str]](set)
    for row in rows:
        clips[row["shard"]].add(row["clip_id"])
    count = Counter(row["shard"] for row in rows)
    made = [
        record(column, shard, 0, (len(own), len(own), 0, 0), {"verdicts": count[shard]})
        for shard, own in sorted(clips.items())
    ]
    commit_version(
        dataset, column, {"shards": to_table("shards", made), "verdicts": to_table("verdicts", rows)}
    )
    return column, len(rows), len(said) - len(rows), bad_lines
