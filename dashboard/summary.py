"""What the status page shows, as plain data: the same for the page and for its JSON twin."""

from __future__ import annotations

import time
from collections import Counter
from statistics import median
from typing import Any

from manifests import queries
from manifests.layout import Dataset
from manifests.writing.events import read_events, run_ids, told

_PATIENCE_S = 60.0
_FIRST_PATIENCE_S = 600.0
"""Before a job is done: models are being loaded."""


def funnel(dataset: Dataset) -> list[dict[str, Any]]:
    """For the plan and each column version: shards done, and items in, kept, dropped and failed."""
    sources = Counter(queries.table(dataset, "sources")["status"].to_pylist())
    num_shards = len({row["shard"] for row in queries.plan(dataset).select(["shard"]).to_pylist()})
    rows: list[dict[str, Any]] = [
        {
            "column": "plan",
            "shards": num_shards,
            "of": num_shards,
            "in": sum(sources.values()),
            **{key: sources[key] for key in ("kept", "dropped", "failed")},
            "bytes": 0,
        }
    ]
    for column in dataset.columns():
        records = queries.table(dataset, "shards", column).to_pylist()
        row: dict[str, Any] = {"column": str(column), "shards": len(records), "of": num_shards}
        for key, name in (
            ("in", "num_in"),
            ("kept", "num_kept"),
            ("dropped", "num_dropped"),
            ("failed", "num_failed"),
            ("bytes", "tar_bytes"),
        ):
            row[key] = sum(record[name] or 0 for record in records)
        rows.append(row)
    return rows


def reasons(dataset: Dataset) -> list[dict[str, Any]]:
    """Why items were dropped or failed, most frequent first, each with one example."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for kind, name, word in (("dropped", "drops", "reason"), ("failed", "failures", "error")):
        for row in queries.table(dataset, name).to_pylist():
            entry = found.setdefault(
                (kind, row["stage"], row[word]),
                {
                    "verdict": kind,
                    "stage": row["stage"],
                    "reason": row[word],
                    "count": 0,
                    "example": row["uri"],
                },
            )
            entry["count"] += 1
    return sorted(found.values(), key=lambda entry: -entry["count"])


def patience_s(events: list[dict[str, Any]]) -> float:
    """How long a run may be silent before it is taken for dead: three median jobs, a minute at least."""
    jobs = [float(event["value"].get("seconds", 0.0)) for event in events if event["event"] == "committed"]
    return max(_PATIENCE_S, 3 * median(jobs)) if jobs else _FIRST_PATIENCE_S


def progress(dataset: Dataset) -> dict[str, Any]:
    """The last run: how far it is, and how long it may still take at the pace so far."""
    runs = run_ids(dataset)
    if not runs:
        return {"run": None, "events": []}
    events = read_events(dataset, runs[-1])
    started = [event for event in events if event["event"] == "run_started"]
    done = sum(event["event"] == "committed" for event in events)
    total = started[-1]["value"].get("num_jobs", 0) if started else 0
    is_over = any(event["event"] == "run_ended" for event in events)
    left_s, silent_since_s = None, None
    if events and not is_over and time.time() - events[-1]["time_s"] > patience_s(events):
        silent_since_s = events[-1]["time_s"]
    elif started and done and not is_over:
        left_s = (events[-1]["time_s"] - started[-1]["time_s"]) / done * (total - done)
    return {
        "run": runs[-1],
        "done": done,
        "total": total,
        "is_over": is_over,
        "left_s": left_s,
        "silent_since_s": silent_since_s,
        "now_s": time.time(),
        "events": told(events)[-12:],
    }


def summary(dataset: Dataset) -> dict[str, Any]:
    """All of the page."""
    return {
        "dataset": dataset.uri,
        "funnel": funnel(dataset),
        "reasons": reasons(dataset),
        "progress": progress(dataset),
    }
