"""What was found, of each shard and of the whole."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field

from manifests.layout import Dataset
from manifests.runs.events import stamp
from manifests.store import storage


@dataclass(frozen=True)
class Checked:
    """What was found of one shard of a column version.

    Attributes:
        stamp: size and time of its commit record: one that was made again has another.
        tar, tar_ns: its tar, and when that was written [unix time, ns]; none where it has none.
    """

    column: str
    shard: int
    depth: str  # cheap | deep
    ok: bool
    problems: list[str]
    stamp: str
    tar: str | None = None
    tar_ns: int = 0


@dataclass
class Report:
    """What `verify` looked at and what is wrong.

    Attributes:
        num_unnamed, unnamed_bytes: tars that no record and no named snapshot names.
    """

    num_shards: int = 0
    num_members: int = 0
    num_bytes: int = 0
    num_unnamed: int = 0
    unnamed_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    checked: list[Checked] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.problems


def note(dataset: Dataset, report: Report) -> str:
    """Keep what was found of each shard in `runs/verify-<time>.jsonl`, for the dashboard; gives its path."""
    path = dataset.path("runs", f"verify-{stamp()}.jsonl")
    now_s = round(time.time(), 3)
    lines = [json.dumps({"time_s": now_s, **asdict(found)}) + "\n" for found in report.checked]
    storage.write_bytes(dataset.filesystem, path, "".join(lines).encode())
    return path
