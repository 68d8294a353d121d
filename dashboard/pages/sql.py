"""The page SQL: one read-only query over the index, answered by a process that can do nothing else."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from dashboard import drawing
from dashboard.index.builder import environment
from dashboard.index.index import BusyError, Index
from dashboard.pages.exports import cell
from dashboard.site import Site
from manifests.errors import UsageError
from manifests.schemas import TABLES

PATIENCE_S = 10.0
MOST_CHILDREN = 2
EXAMPLES = [
    ("Clips by camera", "SELECT camera, count(*) FROM clips GROUP BY 1 ORDER BY 2 DESC"),
    ("Longest sources", "SELECT uri, duration_s FROM sources ORDER BY 2 DESC NULLS LAST LIMIT 20"),
    (
        "Why captions were rejected",
        "SELECT reason, count(*) FROM (SELECT unnest(reasons) AS reason FROM captions "
        "WHERE status = 'rejected') GROUP BY 1 ORDER BY 2 DESC",
    ),
    ("Bytes by column", "SELECT version, sum(tar_bytes) FROM shards GROUP BY 1 ORDER BY 2 DESC"),
]
_slots = threading.Semaphore(MOST_CHILDREN)


def ask(index: Index, query: str) -> dict[str, Any]:
    """Columns and rows of a query, or `error`.

    Raises:
        BusyError: others are asking.
    """
    path, given = index.handed(query)
    if not _slots.acquire(timeout=PATIENCE_S):
        raise BusyError
    command = [sys.executable, "-P", "-m", "dashboard.sql_child", *([str(path)] if path else [])]
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            timeout=PATIENCE_S,
            env=environment(),
            cwd=os.path.sep,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it took over {PATIENCE_S:.0f} s and was ended"}
    finally:
        _slots.release()
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"error": "it took more memory than it may, and was ended"}
    return found


def check(site: Site) -> None:
    """Refuse where paths are to be hidden: a query could tell any of them.

    Raises:
        UsageError: they are.
    """
    if site.hide_paths:
        raise UsageError("SQL", "is not answered with --hide-paths", "Ask with `rushes query`.")


def add(app: FastAPI, site: Site) -> None:
    """The routes."""

    @app.get("/sql")
    @app.get("/sql.json")
    def sql(request: Request, q: str = "") -> Response:
        check(site)
        found = ask(site.index, q) if q.strip() else {}
        data: dict[str, Any] = {"q": q, **found}
        if not request.url.path.endswith(".json"):
            rows = found.get("rows") or []
            is_labelled = bool(rows) and len(rows[0]) == 2 and all(_is_number(row[1]) for row in rows[:40])
            data |= {
                "examples": EXAMPLES,
                "schema": {name: fields for name, fields in TABLES.items() if name in site.index.names()},
                "bars": drawing.bars([(row[0], row[1]) for row in rows[:40]]) if is_labelled else None,
            }
        return site.page(request, "sql.html", data)

    @app.get("/sql.csv")
    def as_csv(q: str) -> Response:
        check(site)
        found = ask(site.index, q)
        if "error" in found:
            return PlainTextResponse(found["error"], 400)
        lines = io.StringIO()
        writer = csv.writer(lines)
        writer.writerow(found["columns"])
        writer.writerows([cell(value) for value in row] for row in found["rows"])
        headers = {"Content-Disposition": 'attachment; filename="query.csv"'}
        return Response(lines.getvalue(), media_type="text/csv", headers=headers)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
