"""Live events of a run: `runs/<run id>/events.jsonl`, one JSON object per line.

Events are for people who watch; nothing in the dataset depends on them. A local file is appended to; an
object store, which cannot append, gets the last piece of the log again at most every few seconds: one that is
full is followed by `events-0001.jsonl` and so on, and is not written again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import MAXYEAR, datetime, timedelta
from typing import Any

from manifests.cli import say
from manifests.errors import IntegrityError
from manifests.layout import Column, Dataset
from manifests.runs.pace import Meter
from manifests.store import storage
from manifests.store.json_files import RESTORE, parse_lines, read_object
from manifests.text import shown_json

_REWRITE_EVERY_S = 10.0
PIECE_BYTES = 1 << 20
"""From this size on a piece on an object store is full."""
HEARTBEAT = "heartbeat"
"""The driver of a run lives, and how much is done; nothing else has happened."""


def piece_path(dataset: Dataset, run_id: str, piece: int = 0) -> str:
    """Where a piece of a run's events lies; on a disk there is but the first."""
    name = f"events-{piece:04d}.jsonl" if piece else "events.jsonl"
    return dataset.path("runs", run_id, name)


class EventLog:
    """The one writer of a run's events."""

    def __init__(self, dataset: Dataset, run_id: str) -> None:
        self.dataset, self.run_id = dataset, run_id
        self.path, self._piece = piece_path(dataset, run_id), 0
        self.meter = Meter()
        self._lines: list[str] = []
        self._written_at_s, self._is_written = 0.0, True
        self._is_local = storage.is_local(dataset.filesystem)
        if self._is_local:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)

    def write(
        self,
        event: str,
        text: str,
        stage: str = "",
        shard: int | None = None,
        time_s: float | None = None,
        **value: Any,
    ) -> dict:
        """Record one event and return it as stored."""
        row: dict[str, Any] = {
            "time_s": round(time.time() if time_s is None else time_s, 3),
            "event": event,
            "stage": stage,
            "shard": shard,
            "text": text,
            "value": value,
        }
        row = shown_json(row)
        self.meter.add(row)
        line = json.dumps(row) + "\n"
        if self._is_local:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line)
        else:
            self._lines.append(line)
            self._is_written = False
        return row

    def flush(self, is_last: bool = False) -> None:
        """Write what an object store has not got yet: every few seconds, at once if it is the last time."""
        is_due = is_last or time.monotonic() - self._written_at_s > _REWRITE_EVERY_S
        if self._is_local or self._is_written or not is_due:
            return
        self._written_at_s = time.monotonic()  # also where it fails: it is tried again in a while
        data = "".join(self._lines).encode()
        storage.write_bytes(self.dataset.filesystem, self.path, data)
        self._is_written = True
        if len(data) >= PIECE_BYTES:
            self._piece += 1
            self.path, self._lines = piece_path(self.dataset, self.run_id, self._piece), []


def read_events(dataset: Dataset, run_id: str) -> list[dict]:
    """All events of a run; an unfinished last line is left out."""
    found, piece = list[dict](), 0
    is_local = storage.is_local(dataset.filesystem)
    while storage.exists(dataset.filesystem, path := piece_path(dataset, run_id, piece)):
        data = storage.read_bytes(dataset.filesystem, path)
        found += parse_lines(data, path, "Delete the line.")
        piece += 1
        if is_local:
            break  # on an object store size is no sign of the last: a takedown makes pieces shorter
    return found


def told(events: list[dict]) -> list[dict]:
    """Events that tell of something: without heartbeats."""
    return [event for event in events if event["event"] != HEARTBEAT]


_STAMP = "%Y%m%d-%H%M%S-%f"


def stamp() -> str:
    """A name for a run that begins now, which sorts by its time [UTC, to the microsecond]."""
    now_ns = time.time_ns()
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_ns // 10**9)) + f"-{now_ns // 1000 % 10**6:06d}"


def new_run_id(dataset: Dataset) -> str:
    """A name for a run that begins now, which sorts after all that are there, whatever clock they went by."""
    name = stamp()
    last = max((other for other in run_ids(dataset) if name <= other and _time_of(other)), default="")
    if not (time_of_last := _time_of(last)):
        return name
    say(f"{dataset.uri}: run {last} is of the future by the clock of this machine; this one sorts after it")
    return (time_of_last + timedelta(microseconds=1)).strftime(_STAMP)


def _time_of(name: str) -> datetime | None:
    """When a run began, by its name; None where it is named otherwise, or no run can sort after it."""
    with contextlib.suppress(ValueError):
        found = datetime.strptime(name, _STAMP)
        return found if found.year < MAXYEAR and found.strftime(_STAMP) == name else None
    return None


def run_ids(dataset: Dataset) -> list[str]:
    """Runs of the dataset, oldest first."""
    files = storage.list_files(dataset.filesystem, dataset.path("runs"), "run.json")
    return sorted(info.path.split("/")[-2] for info in files)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a run works for: the columns that a view is to point at, and the view.

    Attributes:
        view: its name; empty for a run of single stages, which leaves views alone.
        columns: by name; those that are used as they are, too.
        where: the view's predicate, if it has none yet.
    """

    view: str = ""
    columns: Mapping[str, Column] = field(default_factory=dict)
    where: str = ""

    def to_dict(self) -> dict[str, Any]:
        columns = {name: str(column) for name, column in self.columns.items()}
        return {"view": self.view, "columns": columns, "where": self.where}


def run_aim(dataset: Dataset, run_id: str) -> Aim:
    """What a run worked for; without columns for one of before this was recorded.

    Raises:
        IntegrityError: its `run.json` is damaged.
    """
    found = read_object(dataset.filesystem, dataset.path("runs", run_id, "run.json")).get("aim")
    if not isinstance(found, dict):
        return Aim()
    columns = {name: Column.parse(text) for name, text in found["columns"].items()}
    return Aim(view=found["view"], columns=columns, where=found["where"])


def run_config(dataset: Dataset, run_id: str) -> dict[str, Any]:
    """The resolved settings of a run.

    Raises:
        IntegrityError: its `run.json` is damaged.
    """
    path = dataset.path("runs", run_id, "run.json")
    config = read_object(dataset.filesystem, path).get("config")
    if not isinstance(config, dict):
        raise IntegrityError(path, "lacks the run's settings (`config`)", RESTORE)
    return config


def _config_of(dataset: Dataset, column: Column | None) -> dict[str, Any]:
    """Settings of the newest run that made a column; of the newest of all where none says so."""
    runs = run_ids(dataset)
    for run_id in reversed(runs if column else []):
        record = read_object(dataset.filesystem, dataset.path("runs", run_id, "run.json"))
        if str(column) in record.get("makes", ()):
            return run_config(dataset, run_id)
        path = dataset.path("runs", run_id, "summary.json")
        if storage.exists(dataset.filesystem, path):
            made = read_object(dataset.filesystem, path).get("funnel", [])
            if any(step.get("column") == str(column) for step in made):
                return run_config(dataset, run_id)
    return run_config(dataset, runs[-1]) if runs else {}


def ingest_settings(dataset: Dataset, columns: Iterable[Column]) -> dict[str, str]:
    """Text encoder and VAE that made the columns of a view: names for a sampler to load."""
    by_name = {column.name: column for column in columns}
    text = _config_of(dataset, by_name.get("text")).get("text", {})
    encode = _config_of(dataset, by_name.get("latent")).get("encode", {})
    return {
        "text_encoder": text.get("encoder", "coca"),
        "text_model": text.get("model", ""),
        "vae": encode.get("vae", ""),
    }
