"""The page Runs: what ran, how it ended, what it cost, and what was set otherwise than before."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response

from dashboard.site import Site
from manifests.errors import RushesError
from manifests.runs.events import read_events, run_ids
from manifests.runs.pace import OVER, pace
from manifests.store import storage

SHOWN = 30


def read_json(site: Site, run_id: str, name: str) -> dict[str, Any]:
    """A file of a run; empty where it is not there or damaged."""
    path = site.dataset.path("runs", run_id, name)
    try:
        found = json.loads(site.index.store.ask(lambda: storage.read_bytes(site.dataset.filesystem, path)))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def flat(settings: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def changes(now: dict[str, Any], before: dict[str, Any]) -> list[dict[str, Any]]:
    """What is set otherwise than in the run before."""
    new, old = dict(flat(now)), dict(flat(before))
    return [
        {"name": name, "before": old.get(name), "now": new.get(name)}
        for name in sorted(new.keys() | old.keys())
        if new.get(name) != old.get(name)
    ]


def one_run(site: Site, run_id: str, before: dict[str, Any]) -> dict[str, Any]:
    """A run: its command, outcome, times, and the seconds of processors and GPUs that it used."""
    record, summary = read_json(site, run_id, "run.json"), read_json(site, run_id, "summary.json")
    try:
        events = site.index.store.ask(lambda: read_events(site.dataset, run_id))
    except (RushesError, OSError):
        events = []
    now = pace(events, events[-1]["time_s"] if events else 0.0)
    cpu_h, gpu_h = (sum(getattr(stage, name) for stage in now.stages) / 3600 for name in ("cpu_s", "gpu_s"))
    footage_h = max((stage.footage_done_s for stage in now.stages), default=0.0) / 3600
    accepted = summary.get("captions", {}).get("accepted", 0)
    cost = site.prices[0] * cpu_h + site.prices[1] * gpu_h if site.prices else None
    return {
        "run_id": run_id,
        "command": shlex.join(map(str, record.get("command", []))),
        "started_s": record.get("started_s"),
        "seconds": summary.get("seconds", now.now_s - now.begin_s if events else None),
        "outcome": summary.get("outcome", "ended" if now.state == OVER else "no end written"),
        "funnel": summary.get("funnel", []),
        "cpu_h": cpu_h,
        "gpu_h": gpu_h,
        "footage_h": footage_h,
        "accepted": accepted,
        "cost": cost,
        "cost_per_hour": cost / footage_h if cost is not None and footage_h else None,
        "cost_per_caption": cost / accepted if cost is not None and accepted else None,
        "versions": record.get("versions", {}),
        "changes": changes(record.get("config", {}), before) if before else [],
        "config": record.get("config", {}),
        "num_events": len(events),
    }


def add(app: FastAPI, site: Site) -> None:
    """The routes."""

    @app.get("/runs")
    @app.get("/runs.json")
    def runs(request: Request) -> Response:
        try:
            names = site.index.store.ask(lambda: run_ids(site.dataset), "runs")
        except OSError as error:
            raise HTTPException(503, f"{error.strerror or error}", {"Retry-After": "10"}) from error
        found, before = [], dict[str, Any]()
        for run_id in names[-SHOWN:]:
            run = one_run(site, run_id, before)
            before = run.pop("config")
            found.append(run)
        data = {"runs": found[::-1], "num_runs": len(names), "has_prices": site.prices is not None}
        return site.page(request, "runs.html", data)
