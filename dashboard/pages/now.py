"""The page Now: is it moving, is it sound, what is left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

from dashboard.asking.scope import Scope
from dashboard.live import MOST_LISTENERS
from dashboard.pages.clips import among
from dashboard.site import Site, local_time, told_bytes
from dashboard.states import Grid, order_of
from manifests.runs.pace import NONE, OVER, RUNNING, SILENT, Pace, told_range
from manifests.store import storage

_STATES = {"none": "No ingest has run here", "measuring": "Working, time left not measured yet"}
_SHOWN = 12
_MUCH_FAILED = 0.05
_LITTLE_BYTES, _LITTLE_SHARE = 2e9, 0.03
_WITH_RUNS = {"ingest", "recaption", "retry"}
_SAID_ALIKE = 0.001


def funnel(site: Site, scope: Scope) -> list[dict[str, Any]]:
    """For the plan and each column of the scope: shards, and items in, kept, dropped and failed.

    Of a source that was planned again, the last verdict counts.
    """
    sources, planned = site.kept.once("sources", lambda: _sources(site))
    rows = [{"column": "plan", "unit": "files", "shards": planned, "of": planned, "bytes": 0, **_in(sources)}]
    found = site.index.rows(
        f"{scope.tables} SELECT version AS column, "
        "count(*) FILTER (shard IN (SELECT shard FROM segments))::BIGINT AS shards, "
        "sum(num_in)::BIGINT AS in_, "
        "sum(num_kept)::BIGINT AS kept, sum(num_dropped)::BIGINT AS dropped, "
        "sum(num_failed)::BIGINT AS failed, "
        "coalesce(sum(tar_bytes), 0)::BIGINT AS bytes FROM shards GROUP BY 1"
    )
    for row in sorted(found, key=lambda row: order_of(row["column"])):
        unit = "shots" if row["column"].startswith("preview@") else "clips"
        rows.append({"unit": unit, "of": planned, **_in(row)})
    return rows


def _sources(site: Site) -> tuple[dict[str, Any], int]:
    """Verdicts on sources, and how many shards are planned."""
    rows = 'SELECT uri, arg_max(status, "commit") AS status FROM sources GROUP BY uri'
    if site.index.value("SELECT count(DISTINCT generation) FROM segments") == 1:
        rows = "SELECT status FROM sources"  # each address is there once
    (sources,) = site.index.rows(
        "SELECT count(*) AS in_, count(*) FILTER (status = 'kept') AS kept, "
        "count(*) FILTER (status = 'dropped') AS dropped, "
        f"count(*) FILTER (status = 'failed') AS failed FROM ({rows})"
    )
    return sources, site.index.value("SELECT count(DISTINCT shard) FROM segments") or 0


def _in(row: dict[str, Any]) -> dict[str, Any]:
    return {("in" if key == "in_" else key): value for key, value in row.items()}


def alerts(site: Site, scope: Scope, pace: Pace, grid: Grid) -> list[str]:
    """What somebody should look at now."""
    found = []
    if scope.problem:
        found.append(f"view {scope.name}: {scope.problem}")
    if pace.state == SILENT:
        found.append("the last run gives no sign of life: look whether its driver still runs")
    corrupt = grid.count("corrupt")
    if corrupt:
        found.append(f"{corrupt} shard columns are corrupt or lack their tar: run rushes verify --deep")
    if site.index.value("SELECT count(*) FROM unreadable"):
        found.append("some committed parts cannot be read: see SQL, table unreadable")
    for row in funnel(site, scope):
        if row["in"] and row["failed"] / row["in"] > _MUCH_FAILED:
            found.append(f"{row['column']}: {row['failed']} of {row['in']} failed")
    if trouble := site.index.trouble:
        found.append(trouble)
    elif storage.is_local(site.dataset.filesystem):
        free = shutil.disk_usage(site.dataset.root)
        if free.free < max(_LITTLE_BYTES, _LITTLE_SHARE * free.total):
            found.append(
                f"the disk is nearly full: {told_bytes(free.free)} of {told_bytes(free.total)} are left"
            )
    return found + (site.later.ask(("alike", scope), lambda: _said_alike(site, scope)) or [])


def _said_alike(site: Site, scope: Scope) -> list[str]:
    within, is_sample = site.sample(scope)
    rows = site.index.tuples(
        f"{scope.tables} SELECT text, count(DISTINCT key) AS n, (SELECT count(*) FROM clips WHERE {within}) "
        f"FROM captions WHERE {within} AND kind IN ('short', 'dense') "
        "AND source NOT IN ('alt', 'ground_truth') GROUP BY 1 ORDER BY n DESC LIMIT 1"
    )
    if rows and rows[0][1] > max(20, _SAID_ALIKE * rows[0][2]):
        text, number, of = rows[0]
        where = " of a sample" if is_sample else ""
        return [f"one caption is said of {number} of {of} clips{where}: “{text[:80]}”"]
    return []


def some_clips(site: Site, scope: Scope, shards: list[int]) -> list[dict[str, Any]]:
    """A dozen clips, of shards from begin to end."""
    spread = [shards[at * len(shards) // _SHOWN] for at in range(_SHOWN)] if shards else []
    return site.index.rows(
        f"{scope.tables} SELECT clip_id, width_px, height_px, num_frames, camera FROM clips "
        f"WHERE {among(sorted(set(spread)))} ORDER BY hash(clip_id) LIMIT {_SHOWN}"
    )


def before_its_run(site: Site, pace: Pace, told: Callable[[float | None], str]) -> str:
    """Of a writer that has begun no run: it lists and probes footage, or is of a verb without stages; empty
    where there is none."""
    writer = site.tail.writer
    if pace.state not in (NONE, OVER) or writer is None or writer.since_s <= pace.now_s:
        return ""
    who = writer.command if site.hide_paths else writer.name
    if writer.command.removeprefix("rushes ") not in _WITH_RUNS:
        return f"At work since {told(writer.since_s)}: {who}"
    return f"At work since {told(writer.since_s)}, no stage has begun yet: {who}"


def sentence(
    pace: Pace,
    grid: Grid,
    num_failed: int,
    silent: str,
    is_building: bool = False,
    writing: str = "",
    away: str = "",
) -> str:
    """How it stands, in one line.

    Args:
        writing: what there is to say of a writer whose run has not begun.
        is_building: the first index is being built: nothing is known yet.
        away: what there is to say of a store or a folder that does not answer.
    """
    if writing:
        said = writing
    elif pace.state == SILENT:
        said = f"No sign of life since {silent}"
    elif pace.state == OVER:
        said = "No ingest is running; the last one has ended"
    elif pace.state == RUNNING:
        busiest = pace.bottleneck
        name = busiest.stage if busiest else "work"
        said = f"{name.capitalize()}, {pace.share:.0%}, {told_range(pace.left_s)} left"
    else:
        said = _STATES[pace.state]
    corrupt = grid.count("corrupt")
    if is_building:
        return f"{said}; the index is being built: what is there is not known yet."
    if away:
        return f"{said}; {away}."
    said += f"; {corrupt} shard columns corrupt" if corrupt else "; nothing corrupt"
    items = "1 item" if num_failed == 1 else f"{num_failed:,} items"
    return f"{said}; {items} failed." if num_failed else f"{said}; nothing failed."


def stages(pace: Pace) -> list[dict[str, Any]]:
    """Each stage of the newest run, in the order of the pipeline."""
    found = []
    busy = sum(stage.busy_s for stage in pace.stages)
    for stage in sorted(pace.stages, key=lambda stage: order_of(stage.stage)):
        found.append(
            {
                "stage": stage.stage,
                "done": stage.done,
                "jobs": stage.jobs,
                "running": len(stage.running),
                "queued": max(0, stage.left - len(stage.running)),
                "shards_failed": stage.failed,
                "actors": stage.actors,
                "footage_done_s": stage.footage_done_s,
                "footage_s": stage.footage_s,
                "rate": stage.footage_rate(pace.now_s, pace.begin_s),
                "rate_minute": stage.footage_rate(pace.now_s, pace.begin_s, 60.0),
                "kept": stage.kept,
                "dropped": stage.dropped,
                "failed": stage.lost,
                "busy_s": stage.busy_s,
                "busy_share": stage.busy_s / busy if busy else 0.0,
                "cpu_s": stage.cpu_s,
                "gpu_s": stage.gpu_s,
            }
        )
    return found


def state_of(site: Site, scope: Scope, silent: Callable[[float | None], str]) -> dict[str, Any]:
    """All of the page that changes while an ingest runs."""
    pace = site.tail.pace()
    grid = site.grids.of(scope)
    rows = funnel(site, scope)
    bottleneck = pace.bottleneck
    return {
        "sentence": sentence(
            pace,
            grid,
            sum(row["failed"] for row in rows),
            silent(pace.silent_since_s),
            is_building=site.index.progress is not None and not site.index.num_commits,
            writing=before_its_run(site, pace, silent),
            away=site.index.trouble,
        ),
        "run": site.tail.run_id,
        "state": pace.state,
        "share": pace.share,
        "left_s": pace.left_s,
        "silent_since_s": pace.silent_since_s,
        "bottleneck": bottleneck.stage if bottleneck else None,
        "stages": stages(pace),
        "funnel": rows,
        "alerts": alerts(site, scope, pace, grid),
        "trouble": list(site.tail.trouble)[-6:][::-1],
        "events": list(site.tail.recent)[-14:][::-1],
        "place": site.tail.place,
    }


def add(app: FastAPI, site: Site) -> None:
    """The routes."""

    @app.get("/")
    @app.get("/now.json")
    def now(request: Request) -> Response:
        scope = site.scope(request)
        clips = some_clips(site, scope, site.grids.of(scope).shards)
        data = state_of(site, scope, local_time) | {"clips": clips}
        return site.page(request, "now.html", data, scope)

    @app.get("/now/live")
    def live(request: Request) -> Response:
        return site.part(request, "now_live.html", state_of(site, site.scope(request), local_time))

    @app.get("/events")
    async def events(request: Request, after: str = "") -> Response:
        if site.tail.listeners >= MOST_LISTENERS:
            raise HTTPException(503, "as many pages listen as are served; this one asks from time to time")
        after = request.headers.get("last-event-id", after)

        def told() -> dict[str, Any]:
            pace = site.tail.pace()
            return {"run": site.tail.run_id, "state": pace.state, "done": pace.done, "jobs": pace.jobs}

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(
            site.tail.changes(after, told), media_type="text/event-stream", headers=headers
        )
