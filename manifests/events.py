"""Live events of a run: `runs/<run id>/events.jsonl`, one JSON object per line.

Events are for people who watch; nothing in the dataset depends on them. A local file is appended to; an
object store, which cannot append, gets the whole file again at most every few seconds.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from manifests import storage
from manifests.layout import Dataset

_REWRITE_EVERY_S = 10.0


class EventLog:
    """The one writer of a run's events."""

    def __init__(self, dataset: Dataset, run_id: str) -> None:
        self.dataset, self.run_id = dataset, run_id
        self.path = dataset.path("runs", run_id, "events.jsonl")
        self._lines: list[str] = []
        self._written_at_s = 0.0
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
        row = {
            "time_s": round(time.time() if time_s is None else time_s, 3),
            "event": event,
            "stage": stage,
            "shard": shard,
            "text": text,
            "value": value,
        }
        line = json.dumps(row) + "\n"
        if self._is_local:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line)
        else:
            self._lines.append(line)
            if time.monotonic() - self._written_at_s > _REWRITE_EVERY_S:
                self.flush()
        return row

    def flush(self) -> None:
        if not self._is_local and self._lines:
            storage.write_bytes(self.dataset.filesystem, self.path, "".join(self._lines).encode())
            self._written_at_s = time.monotonic()


def read_events(dataset: Dataset, run_id: str) -> list[dict]:
    """All events of a run; an unfinished last line is left out."""
    path = dataset.path("runs", run_id, "events.jsonl")
    if not storage.exists(dataset.filesystem, path):
        return []
    text = storage.read_bytes(dataset.filesystem, path).decode()
    return [json.loads(line) for line in text.split("\n")[:-1] if line]


def run_ids(dataset: Dataset) -> list[str]:
    """Runs of the dataset, oldest first."""
    files = storage.list_files(dataset.filesystem, dataset.path("runs"), "run.json")
    return sorted(info.path.split("/")[-2] for info in files)


def ingest_settings(dataset: Dataset) -> dict[str, str]:
    """Text encoder and VAE that the newest ingest used: names for a sampler to load."""
    for run_id in reversed(run_ids(dataset)):
        config = json.loads(storage.read_bytes(dataset.filesystem, dataset.path("runs", run_id, "run.json")))[
            "config"
        ]
        return {
            "text_encoder": config["text"]["encoder"],
            "text_model": config["text"]["model"],
            "vae": config["encode"]["vae"],
        }
    return {"text_encoder": "coca", "text_model": "", "vae": ""}
