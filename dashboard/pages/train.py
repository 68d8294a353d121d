"""The pages Training: runs over each other, and one run: curves, what it has eaten, samples by step."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, Response

from dashboard.asking.filters import joined, listed
from dashboard.asking.scope import Scope
from dashboard.site import Site
from dashboard.training import LOCK, Run, run_of, runs
from manifests.errors import UsageError
from manifests.tables.ids import source_of

MOST_RUNS = 6
_MEASURES = ("loss", "tokens_per_s", "stall_share", "fill", "memory_bytes", "lr", "grad_norm", "mfu")
_STRIP = 200


def eaten(site: Site, scope: Scope, run: Run) -> dict[str, Any]:
    """Which shards a run has read: clips by shard and epoch, those never shown, and those shown most.

    What it holds out for validation is counted apart: it is never shown.
    """
    run.look_at_consumed()
    aside = run.held_out()
    rows = site.index.tuples(f"{scope.tables} SELECT clip_id, shard FROM clips ORDER BY shard")
    place = dict(rows)
    epochs = sorted({epoch for _, epoch in run.by_epoch})
    cells: dict[tuple[int, int], int] = defaultdict(int)
    for (clip_id, epoch), count in run.by_epoch.items():
        if clip_id in place:
            cells[place[clip_id], epoch] += count
    clips_in: dict[int, int] = defaultdict(int)
    never: dict[int, int] = defaultdict(int)
    loss: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for clip_id, shard in rows:
        clips_in[shard] += 1
        never[shard] += clip_id not in run.shown and source_of(clip_id) not in aside
        for side, value in enumerate(run.loss_of.get(clip_id, (0.0, 0.0))):
            loss[shard][side] += value
    shards = sorted(clips_in)
    step = max(1, -(-len(shards) // _STRIP))
    strip = []
    for at in range(0, len(shards), step):
        own = shards[at : at + step]
        num_clips = sum(clips_in[shard] for shard in own)
        total, steps = (sum(loss[shard][side] for shard in own) for side in (0, 1))
        strip.append(
            {
                "first": own[0],
                "last": own[-1],
                "clips": num_clips,
                "never": sum(never[shard] for shard in own),
                "shown": [sum(cells[shard, epoch] for shard in own) / num_clips for epoch in epochs],
                "loss": total / steps if steps else None,
            }
        )
    mean = sum(run.shown[clip_id] for clip_id in place) / max(1, len(place))
    often = [(clip_id, count) for clip_id, count in run.shown.most_common(8) if clip_id in place]
    return {
        "epochs": epochs,
        "strip": strip,
        "never": sum(never.values()),
        "clips": len(place),
        "held_out": sum(source_of(name) in aside and name not in run.shown for name in place),
        "foreign": sum(clip_id not in place for clip_id in run.shown),
        "mean": mean,
        "often": often,
    }


def curves(run: Run, by: str) -> dict[str, Any]:
    """The columns of each chart."""
    cells = sorted(name for name in run.metrics if name.startswith("loss_by/"))
    points = run.series([*_MEASURES, "loss_smooth", *cells, "skipped", "rolled_back"], by)
    validation = {
        "x": [row["step"] for row in run.validation],
        **{
            key: [row["scores"].get("all", {}).get(key) for row in run.validation]
            for key in ("loss", "shuffled", "baseline")
        },
    }
    return {
        "by": by,
        "points": points,
        "cells": [name.removeprefix("loss_by/") for name in cells],
        "validation": validation,
        "marks": marks(run),
    }


def marks(run: Run) -> dict[str, list[float]]:
    """Steps that were skipped, and after which weights were taken back."""
    found = {}
    for name in ("skipped", "rolled_back"):
        column, steps = run.metrics.get(name, []), run.metrics["step"]
        found[name] = [steps[at] for at in range(1, len(column)) if column[at] > column[at - 1]][:200]
    return found


def add(app: FastAPI, site: Site) -> None:
    """The routes."""

    @app.get("/train")
    @app.get("/train.json")
    def train(request: Request, metric: str = "loss_smooth") -> Response:
        with LOCK:
            return site.page(request, "train.html", overlaid(request, metric))

    def overlaid(request: Request, metric: str) -> dict[str, Any]:
        """Runs, and one measure of those that are chosen."""
        found = runs(site)
        asked = [name for name in listed(request.query_params.get("runs", "")) if name]
        names = (asked or [row["name"] for row in found])[:MOST_RUNS]
        known = {row["name"] for row in found}
        if unknown := [name for name in names if name not in known]:
            raise UsageError(f"?runs={unknown[0]}", "is no run here", f"Runs: {', '.join(sorted(known))}.")
        lines, metrics = {}, set[str]()
        for name in names:
            run = run_of(site, name)
            if run is not None:
                points = run.series([metric])
                lines[name] = {"x": points["x"], "y": points[metric]}
                metrics |= set(run.metrics)
        every = {name for row in found if (run := run_of(site, row["name"])) for name in run.metrics}
        every |= {*_MEASURES, "loss_smooth"}
        if metric not in every:
            raise UsageError(
                f"?metric={metric}", "is no measure here", f"Measures: {', '.join(sorted(every))}."
            )
        return {
            "runs": found,
            "chosen": names,
            "chosen_text": joined(names),
            "metric": metric,
            "metrics": sorted(metrics),
            "lines": lines,
        }

    @app.get("/train/{name}")
    @app.get("/train/{name}.json")
    def one(request: Request, name: str, by: str = "step") -> Response:
        run = run_of(site, name)
        if run is None:
            raise HTTPException(404, f"there is no run {name}")
        if by not in ("step", "epoch", "time"):
            raise UsageError(f"?by={by}", "is no axis", "There are step, epoch and time.")
        scope = site.scope(request)
        about = next(row for row in runs(site) if row["name"] == name)
        with LOCK:
            data: dict[str, Any] = {
                "run": about,
                "curves": curves(run, by),
                "eaten": eaten(site, scope, run),
                "samples": run.samples(),
            }
        return site.page(request, "train_run.html", data, scope)

    @app.get("/train/{name}/samples/{step}/{file}")
    def sample(name: str, step: int, file: str) -> Response:
        run = run_of(site, name)
        path = run.sample_file(step, file) if run else None
        if path is None:
            raise HTTPException(404, "no such sample")
        return FileResponse(path, media_type="video/webm" if file.endswith(".webm") else "image/png")
