"""The page Shards: a grid of shards by column versions, and one shard in detail."""

from __future__ import annotations

import json
import shlex
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from dashboard.site import Site
from dashboard.states import GLYPHS, MOST_ROWS, STATES, order_of
from dashboard.training import read_of

_MOST_PROBLEMS, _MOST_GAPS = 50, 20


def add(app: FastAPI, site: Site) -> None:
    """The routes."""

    @app.get("/shards")
    @app.get("/shards.json")
    def shards(request: Request) -> Response:
        scope = site.scope(request)
        grid = site.grids.of(scope)
        spans, worst = grid.binned(MOST_ROWS)
        problems = [
            {"version": version, "shard": shard, "problem": problem}
            for (version, shard), problem in list(grid.problems.items())[:_MOST_PROBLEMS]
        ]
        data = {
            "states": list(STATES),
            "glyphs": GLYPHS,
            "versions": grid.versions,
            "num_shards": len(grid.shards),
            "counts": grid.counts(),
            "spans": spans,
            "cells": {version: [STATES.index(state) for state in row] for version, row in worst.items()},
            "problems": problems,
            "num_problems": len(grid.problems),
            "gaps": grid.gaps()[:_MOST_GAPS],
        }
        return site.page(request, "shards.html", data, scope)

    @app.get("/shards/{number}")
    @app.get("/shards/{number}.json")
    def shard(request: Request, number: int) -> Response:
        scope = site.scope(request)
        return site.page(request, "shard.html", one_shard(site, scope, number), scope)


def one_shard(site: Site, scope: Any, number: int) -> dict[str, Any]:
    """What is known of one shard.

    Raises:
        HTTPException: there is none.
    """
    grid = site.grids.of(scope)
    if number not in grid.shards:
        raise site.missing(f"there is no shard {number}; there are {len(grid.shards)}")
    rows = site.index.rows("SELECT * FROM shards WHERE shard = ?", [number])
    at = grid.shards.index(number)
    members = dict(
        site.index.tuples("SELECT version, count(*) FROM members WHERE shard = ? GROUP BY 1", [number])
    )
    columns = []
    for row in sorted(rows, key=lambda row: order_of(row["version"])):
        stats = json.loads(row["stats_json"] or "{}")
        columns.append(
            {
                **row,
                "state": grid.cells[row["version"]][at],
                "problem": grid.problems.get((row["version"], number), ""),
                "num_members": members.get(row["version"], 0),
                "stats": {key: value for key, value in stats.items() if isinstance(value, (int, float, str))},
                "replay": shlex.join(
                    ["rushes", "replay", row["column"], str(number)]
                    + ["--dataset", site.shown_path(site.dataset.uri)]
                ),
            }
        )
    clips = site.index.rows(
        f"{scope.tables} SELECT clip_id, width_px, height_px, num_frames, camera, seconds FROM clips "
        "WHERE shard = ? ORDER BY clip_id LIMIT 60",
        [number],
    )
    ids = [
        row[0]
        for row in site.index.tuples(f"{scope.tables} SELECT clip_id FROM clips WHERE shard = ?", [number])
    ]
    lost = [
        row
        for name, word in (("drops", "reason"), ("failures", "error"))
        for row in site.index.rows(
            f"{scope.tables} SELECT stage, {word} AS reason, count(*) AS count FROM {name} WHERE shard = ? "
            "GROUP BY ALL ORDER BY count DESC",
            [number],
        )
    ]
    return {
        "number": number,
        "columns": columns,
        "clips": clips,
        "lost": lost,
        "read": read_of(site, ids),
        "before": grid.shards[at - 1] if at else None,
        "next": grid.shards[at + 1] if at + 1 < len(grid.shards) else None,
        "segments": site.index.rows(
            "SELECT generation, num, seconds FROM segments WHERE shard = ?", [number]
        ),
    }
