"""Live events of a run: `runs/<run id>/events.jsonl`, one JSON object per line.

Events are for people who watch; nothing in the dataset depends on them. A local file is appended to; an
object store, which cannot append, gets the whole file again at most every few seconds.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from manifests.errors import IntegrityError
from manifests.layout import Dataset
from manifests.store import storage
from manifests.store.json_files import RESTORE, parse_lines, read_object
from manifests.text import shown_json
from manifests.writing.pace import Meter

_REWRITE_EVERY_S = 10.0
HEARTBEAT = "heartbeat"
"""The driver of a run lives, and how much is done; nothing else has happened."""


class EventLog:
    """The one writer of a run's events."""

    def __init__(self, dataset: Dataset, run_id: str) -> None:
        self.dataset, self.run_id = dataset, run_id
        self.path = dataset.path("runs", run_id, "events.jsonl")
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
        storage.write_bytes(self.dataset.filesystem, self.path, "".join(self._lines).encode())
        self._is_written = True


def read_events(dataset: Dataset, run_id: str) -> list[dict]:
    """All events of a run; an unfinished last line is left out."""
    path = dataset.path("runs", run_id, "events.jsonl")
    if not storage.exists(dataset.filesystem, path):
        return []
    return parse_lines(storage.read_bytes(dataset.filesystem, path), path, "Delete the line.")


def told(events: list[dict]) -> list[dict]:
    """Events that tell of something: without heartbeats."""
    return [event for event in events if event["event"] != HEARTBEAT]


def run_ids(dataset: Dataset) -> list[str]:
    """Runs of the dataset, oldest first."""
    files = storage.list_files(dataset.filesystem, dataset.path("runs"), "run.json")
    return sorted(info.path.split("/")[-2] for info in files)


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


def ingest_settings(dataset: Dataset) -> dict[str, str]:
    """Text encoder and VAE that the newest ingest used: names for a sampler to load."""
    runs = run_ids(dataset)
    config = run_config(dataset, runs[-1]) if runs else {}
    text, encode = config.get("text", {}), config.get("encode", {})
    return {
        "text_encoder": text.get("encoder", "coca"),
        "text_model": text.get("model", ""),
        "vae": encode.get("vae", ""),
    }
