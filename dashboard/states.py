"""The state of each shard of each column version: from the index, the newest run, `verify` and a listing."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from dashboard.asking.scope import Scope
from dashboard.index.index import Index
from dashboard.index.patience import Patience
from dashboard.live import Tail
from manifests.layout import Dataset
from manifests.runs.pace import MEASURING, RUNNING
from manifests.store import storage

STATES = ("missing", "queued", "running", "committed", "verified", "stale", "failures", "corrupt")
_WORSE = ("verified", "committed", "running", "queued", "missing", "stale", "failures", "corrupt")
"""From the best to the worst: a bin of several shards shows the worst of them."""
GLYPHS = dict(zip(STATES, "·…▸■✓◇!✕", strict=True))
_LISTED_S, _LISTED_REMOTE_S = 15.0, 120.0
_SLACK_S = 2.0
"""By which the clock of a store may be behind ours."""
MOST_ROWS = 2000


ORDER = ("preview", "embed", "score", "caption", "text", "latent", "dedup", "map", "verdict")


def order_of(column: str) -> tuple[int, str]:
    """Columns and stages in the order of the pipeline."""
    name = column.partition("@")[0]
    return (ORDER.index(name) if name in ORDER else len(ORDER), column)


class Integrity:
    """What `verify` found, and which tars are there with their size."""

    def __init__(self, dataset: Dataset, store: Patience) -> None:
        self._dataset, self._store, self._lock = dataset, store, threading.Lock()
        self._every_s = _LISTED_S if storage.is_local(dataset.filesystem) else _LISTED_REMOTE_S
        self._listed_at_s, self._listed_s, self.looks = -1e9, 0.0, 0
        self._sizes: dict[str, int] = {}
        self._times: dict[str, int] = {}
        self._read: set[str] = set()
        self.verified: dict[tuple[str, int], dict[str, Any]] = {}
        """The newest line of `verify` for a column version and a shard."""

    def look(self) -> None:
        """List the tars and read what `verify` wrote since; at most so often as the store allows."""
        with self._lock:
            if time.monotonic() - self._listed_at_s < self._every_s:
                return
            self._listed_at_s = time.monotonic()
            with contextlib.suppress(OSError):  # of a store that does not answer now: what is known is shown
                self._store.ask(self._list, "tars")

    def _list(self) -> None:
        dataset, now_s = self._dataset, time.time()
        files = storage.list_files(dataset.filesystem, dataset.path("columns"), ".tar")
        self._sizes, self._listed_s = {dataset.relative(info.path): info.size for info in files}, now_s
        self._times = {dataset.relative(info.path): info.mtime_ns for info in files}
        notes = storage.list_files(dataset.filesystem, dataset.path("runs"), ".jsonl")
        for info in sorted(notes, key=lambda info: info.base_name):
            if info.base_name.startswith("verify-") and info.path not in self._read:
                self._note(storage.read_bytes(dataset.filesystem, info.path))
                self._read.add(info.path)
        self.looks += 1

    def _note(self, data: bytes) -> None:
        for line in data.splitlines():
            try:
                row = json.loads(line)
                self.verified[row["column"], int(row["shard"])] = row
            except (ValueError, KeyError, TypeError):
                continue  # the last line of one that is being written

    def is_of(self, said: dict[str, Any], tar: str | None) -> bool:
        """Whether a line is of this tar as it is now, though its commit was merged since."""
        return (
            bool(tar) and said.get("tar") == tar and self._times.get(tar or "", 0) <= said.get("tar_ns", -1)
        )

    def problem(self, tar: str | None, tar_bytes: int | None, stamp: str) -> str:
        """What a listing shows of a tar; empty where it is there and as large as it was.

        Args:
            stamp: of its commit: of one made since, the listing says nothing.
        """
        if tar is None or int(stamp.partition("-")[2] or 0) / 1e9 > self._listed_s - _SLACK_S:
            return ""
        size = self._sizes.get(tar)
        if size is None:
            return f"{tar}: is missing"
        return "" if size == tar_bytes else f"{tar}: has {size} bytes, {tar_bytes} were committed"


@dataclass
class Grid:
    """States by column version and shard.

    Attributes:
        versions: in the order of the pipeline.
        shards: numbers of all that are planned or committed.
        cells: by version, a state for each of `shards`.
        problems: by version and shard, what is wrong.
    """

    versions: list[str] = field(default_factory=list)
    shards: list[int] = field(default_factory=list)
    cells: dict[str, list[str]] = field(default_factory=dict)
    problems: dict[tuple[str, int], str] = field(default_factory=dict)

    def count(self, state: str) -> int:
        return sum(row.count(state) for row in self.cells.values())

    def counts(self) -> dict[str, dict[str, int]]:
        """How many shards of each version are in each state."""
        return {version: dict(Counter(row)) for version, row in self.cells.items()}

    def binned(self, most: int) -> tuple[list[tuple[int, int]], dict[str, list[str]]]:
        """Runs of shards, (first, last), and the worst state of each; single shards where they are few."""
        step = -(-len(self.shards) // most) if self.shards else 1
        begins = range(0, len(self.shards), step)
        spans = [(self.shards[at], self.shards[min(at + step, len(self.shards)) - 1]) for at in begins]
        rank = {state: number for number, state in enumerate(_WORSE)}
        worst = {
            version: [max(row[at : at + step], key=rank.__getitem__) for at in begins]
            for version, row in self.cells.items()
        }
        return spans, worst

    def gaps(self) -> list[tuple[int, int]]:
        """Numbers between planned shards that no shard has."""
        pairs = zip(self.shards, self.shards[1:], strict=False)
        return [(one + 1, other - 1) for one, other in pairs if other > one + 1]


class Grids:
    """The newest grid, made anew where something has changed."""

    def __init__(self, index: Index, tail: Tail) -> None:
        self._index, self._tail, self._integrity = index, tail, Integrity(index.dataset, index.store)
        self._held: tuple[Any, Grid] = (None, Grid())

    def of(self, scope: Scope) -> Grid:
        """The grid of a scope now."""
        self._integrity.look()
        self._index.refresh()
        key = (self._index.changes, self._tail.place, self._integrity.looks, scope)
        held = self._held
        if key != held[0]:
            held = self._held = (key, make_grid(self._index, self._tail, self._integrity, scope))
        return held[1]


def make_grid(index: Index, tail: Tail, integrity: Integrity, scope: Scope) -> Grid:
    """The states of everything that is planned or committed."""
    numbers = "SELECT shard FROM segments UNION SELECT shard FROM shards ORDER BY 1"
    shards = [shard for (shard,) in index.each(numbers)]
    place = {shard: at for at, shard in enumerate(shards)}
    known = {version for (version,) in index.each("SELECT DISTINCT version FROM shards")}
    versions = sorted(known | set(scope.columns.values()), key=order_of)
    in_scope = set(scope.columns.values())
    is_live = tail.pace().state in (RUNNING, MEASURING)
    grid = Grid(versions, shards, {version: ["missing"] * len(shards) for version in versions})
    if is_live:
        for stage in {stage.stage for stage in tail.pace().stages}:
            for version in versions:
                if version.startswith(f"{stage}@") and version in in_scope:
                    grid.cells[version] = ["queued"] * len(shards)
        for stage, shard in tail.jobs():
            for version in versions:
                if version.startswith(f"{stage}@") and version in in_scope and shard in place:
                    grid.cells[version][place[shard]] = "running"
    rows = index.each(
        "SELECT version, s.shard, num_failed, tar, tar_bytes, stamp FROM shards s "
        "LEFT JOIN (SELECT version, number AS shard, stamp FROM commits) USING (version, shard)"
    )
    for version, shard, num_failed, tar, tar_bytes, stamp in rows:
        if version not in grid.cells or shard not in place:
            continue  # it has come since
        said = integrity.verified.get((version, shard))
        if said and said.get("stamp") != stamp and not integrity.is_of(said, tar):
            said = None  # made again since
        problem = integrity.problem(tar, tar_bytes, stamp or "")
        if said and not said["ok"]:
            problem = problem or "; ".join(said["problems"])
        if problem:
            state = "corrupt"
            grid.problems[version, shard] = problem
        elif num_failed:
            state = "failures"
        elif version not in in_scope:
            state = "stale"
        else:
            state = "verified" if said and said["depth"] == "deep" else "committed"
        grid.cells[version][place[shard]] = state
    for version, shard, problem in index.tuples("SELECT version, shard, problem FROM unreadable"):
        if version in grid.cells and shard in place:
            grid.cells[version][place[shard]] = "corrupt"
            grid.problems[version, shard] = problem
    return grid
