"""The page Drops: what was thrown away, by which measure, and what another threshold would have kept."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from dashboard import drawing, sources
from dashboard.asking.scope import Scope
from dashboard.pages.now import funnel
from dashboard.site import Site
from manifests.errors import RushesError, UsageError
from manifests.reasons import DROPS, FAILURES
from manifests.writing.removing import pending, takedowns

PAGE = 24
_MOST_VALUES = 20_000


def _newest(site: Site) -> str:
    """A predicate that leaves out verdicts on sources that were planned again since."""
    if (site.index.value('SELECT count(DISTINCT "commit") FROM sources') or 0) < 2:
        return "true"
    return (
        "(stage <> 'plan' OR (uri, \"commit\") IN "
        '(SELECT (uri, max("commit")) FROM memory.now.sources GROUP BY uri))'
    )


def reasons(site: Site, scope: Scope) -> list[dict[str, Any]]:
    """Every reason of a drop and cause of a failure, with its count and what it means."""
    found = []
    for kind, table, word, known in (
        ("dropped", "drops", "reason", DROPS),
        ("failed", "failures", "error", FAILURES),
    ):
        rows = site.index.rows(
            f"{scope.tables} SELECT stage, {word} AS reason, count(*) AS count, "
            f"sum(greatest(0, coalesce(end_s - start_s, 0))) AS seconds FROM {table} "
            f"WHERE {_newest(site)} GROUP BY ALL"
        )
        for row in rows:
            meaning = known.get(row["reason"])
            found.append(
                {
                    "kind": kind,
                    **row,
                    "meaning": meaning.meaning if meaning else "",
                    "next_step": meaning.next_step if meaning else "",
                }
            )
    return sorted(found, key=lambda row: (-row["count"], row["reason"]))


def of_reason(
    site: Site, scope: Scope, stage: str, reason: str, moved: float | None, after: str
) -> dict[str, Any]:
    """The items of one reason, its values and its threshold, and what another would keep."""
    table, word = ("drops", "reason")
    newest = _newest(site)
    asked = f"FROM drops WHERE {newest} AND stage = ? AND {word} = ?"
    if not site.index.value(f"{scope.tables} SELECT count(*) {asked}", [stage, reason]):
        table, word = "failures", "error"
        asked = f"FROM failures WHERE {newest} AND stage = ? AND {word} = ?"
    more = ", value, threshold" if table == "drops" else ", cause, attempt"
    rows = site.index.rows(
        f"{scope.tables} SELECT item_id, source_id, uri, start_s, end_s, shard, num_frames{more} "
        f"{asked} AND item_id > ? ORDER BY item_id LIMIT {PAGE + 1}",
        [stage, reason, after],
    )
    data: dict[str, Any] = {
        "table": table,
        "items": rows[:PAGE],
        "next": rows[PAGE - 1]["item_id"] if len(rows) > PAGE else "",
        "count": site.index.value(f"{scope.tables} SELECT count(*) {asked}", [stage, reason]),
        "values": [],
    }
    playable = {
        row["source_id"]: sources.is_playable(row)
        for row in site.index.rows(
            "SELECT source_id, container, codec FROM sources WHERE list_contains(?::VARCHAR[], source_id)",
            [[row["source_id"] for row in data["items"]]],
        )
    }
    for row in data["items"]:
        row["is_playable"] = playable.get(row["source_id"], False)
    if table == "drops":
        data |= measured(site, scope, stage, reason, moved)
    return data


def measured(site: Site, scope: Scope, stage: str, reason: str, moved: float | None) -> dict[str, Any]:
    """What was measured of the items of one reason, and how many another threshold would keep."""
    rows = site.index.tuples(
        f"{scope.tables} SELECT * FROM (SELECT value, threshold FROM drops WHERE stage = ? AND reason = ? "
        f"AND value IS NOT NULL) USING SAMPLE reservoir({_MOST_VALUES} ROWS) REPEATABLE (1)",
        [stage, reason],
    )
    values = [value for value, _ in rows if value is not None and math.isfinite(value)]
    limits = sorted({limit for _, limit in rows if limit})  # of gaps the value counts frames, with no limit
    if not values or not limits:
        return {"values": values, "threshold": None}
    threshold = limits[-1]
    is_floor = sum(value < threshold for value in values) > len(values) / 2
    data: dict[str, Any] = {"values": values, "threshold": threshold, "is_floor": is_floor, "moved": moved}
    if moved is not None:
        sign = ">=" if is_floor else "<="
        data["would_keep"] = site.index.value(
            f"{scope.tables} SELECT count(*) FROM drops WHERE stage = ? AND reason = ? AND value {sign} ?",
            [stage, reason, moved],
        )
    data["svg"] = drawing.drops(values, threshold, moved)
    data["low"], data["high"] = min([*values, threshold]), max([*values, threshold])
    return data


def taken_down(site: Site) -> tuple[list[dict[str, Any]], int, str]:
    """Takedowns, how many sources one that has not ended is to take, and why neither is known."""

    def read() -> tuple[list[dict[str, Any]], int]:
        return takedowns(site.dataset), len(pending(site.dataset))

    try:
        return (*site.index.store.ask(read, "takedowns"), "")
    except (OSError, RushesError) as error:
        return [], 0, f"takedowns are not known: {error}"


def add(app: FastAPI, site: Site) -> None:
    """The routes."""

    @app.get("/drops")
    @app.get("/drops.json")
    def drops(request: Request, stage: str = "", reason: str = "", at: str = "", after: str = "") -> Response:
        scope = site.scope(request)
        found = reasons(site, scope)
        gone, num_going, unknown = taken_down(site)
        data: dict[str, Any] = {
            "takedowns": gone,
            "num_going": num_going,
            "unknown": unknown,
            "reasons": found,
            "funnel": funnel(site, scope),
            "stage": stage,
            "reason": reason,
        }
        if reason:
            if not any((row["stage"], row["reason"]) == (stage, reason) for row in found):
                known = ", ".join(sorted({f"{row['stage']}/{row['reason']}" for row in found}))
                raise UsageError(
                    f"?stage={stage}&reason={reason}", "was given to nothing", f"There are: {known}."
                )
            data |= of_reason(site, scope, stage, reason, _number(at), after)
            data["about"] = next(row for row in found if (row["stage"], row["reason"]) == (stage, reason))
        return site.page(request, "drops.html", data, scope)

    @app.get("/source/{source_id}")
    def source(request: Request, source_id: str) -> Response:
        return sources.answer(site.index, source_id, request.headers.get("range"))

    @app.get("/source/{source_id}/strip.jpg")
    def strip(source_id: str, start_s: float = 0.0, end_s: float = 0.0) -> Response:
        return sources.strip(site.index, source_id, start_s, end_s)


def _number(text: str) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError as error:
        raise UsageError(f"?at={text}", "is no number", "Give the threshold that you think of.") from error
    return value if value is None or math.isfinite(value) else None
