"""The page Check: captions of a drawn sample, one after the other or two of a clip beside each other."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from dashboard.asking.scope import Scope
from dashboard.pages import compare
from dashboard.site import Site
from dashboard.verdicts import ANY, TAGS, VERDICTS, Expected, Verdicts, agreement, name_of, rates
from manifests.errors import UsageError
from manifests.text import valid

_MOST_BODY = 4096
_STRATUM = (
    "coalesce(c.camera, 'image') || ', ' || CASE WHEN c.seconds < 4 THEN 'short' ELSE 'long' END "
    "|| ', ' || s.status"
)


_JUDGED = "s.kind IN ('dense', 'short') AND s.source NOT IN ('alt', 'ground_truth')"
"""What a captioner wrote: what came with the footage is not judged."""


def num_captions(site: Site, scope: Scope) -> int:
    """Captions of a view that can be judged."""
    joined = "captions s JOIN clips c USING (key)"
    return int(site.index.tuples(f"{scope.tables} SELECT count(*) FROM {joined} WHERE {_JUDGED}")[0][0])


def expected(given: dict[str, Any]) -> Expected:
    """When the verdict was kept that who judges knows of.

    Raises:
        ValueError, TypeError: it is no time.
    """
    value = given.get("expects", ANY)
    if value is None or value == ANY:
        return value
    if not math.isfinite(found := float(value)):
        raise ValueError
    return found


def next_caption(site: Site, scope: Scope, who: str, seed: int, done: set[str]) -> dict[str, Any] | None:
    """The next caption to judge: every stratum of camera, length and status has its turn."""
    rows = site.index.rows(
        f"{scope.tables}, drawn AS (SELECT s.caption_id, s.clip_id, s.text, s.kind, s.version, c.num_frames, "
        f"{_STRATUM} AS stratum, row_number() OVER (PARTITION BY {_STRATUM} "
        f"ORDER BY hash(s.caption_id, {seed})) AS turn FROM captions s JOIN clips c USING (key) "
        f"WHERE {_JUDGED}) "
        f"SELECT * FROM drawn WHERE NOT list_contains(?::VARCHAR[], caption_id) "
        f"ORDER BY turn, hash(stratum, {seed}) LIMIT 1",
        [sorted(done)],
    )
    return rows[0] if rows else None


def add(app: FastAPI, site: Site) -> None:
    """The routes; none where no file for verdicts was named."""
    if site.verdicts is None:
        return
    verdicts: Verdicts = site.verdicts

    @app.get("/check")
    @app.get("/check.json")
    def check(request: Request, who: str = "me", seed: int = 1, a: str = "", b: str = "") -> Response:
        scope, who = site.scope(request), name_of(who)
        data: dict[str, Any] = {"who": who, "seed": seed, "file": str(verdicts.path), "a": a, "b": b}
        data["versions"] = compare.versions(site)
        if a or b:
            compare.checked(site, a, b)
            choices = verdicts.choices()
            done = {
                row["clip_id"] for row in choices if row["who"] == who and row["versions"] == sorted((a, b))
            }
            data |= {"pair": compare.next_pair(site, scope, a, b, seed, done), "done": len(done)}
            data["num"] = compare.num_pairs(site, scope, a, b)
            data["preferred"] = compare.preferred(choices, a, b)
            return site.page(request, "check_pair.html", data, scope)
        rows = verdicts.rows()
        own = {row["caption_id"] for row in rows if row["who"] == who}
        both, alike = agreement(rows)
        data |= {
            "item": next_caption(site, scope, who, seed, own),
            "done": len(own),
            "num": num_captions(site, scope),
            "verdicts": VERDICTS,
            "tags": TAGS,
            "strata": rates(rows, "stratum"),
            "by_version": rates(rows, "version"),
            "both": both,
            "alike": alike,
        }
        return site.page(request, "check.html", data, scope)

    @app.post("/check")
    async def judge(request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BODY:
                raise HTTPException(413, "too long for a verdict")
        return await run_in_threadpool(kept, request, body)

    def chosen(given: dict[str, Any], expects: Expected) -> Response:
        if (row := compare.judged(site, given)) is None:
            raise HTTPException(404, "these are not two captions of one clip")
        return told(verdicts.choose(row, expects))

    def told(time_s: float | None) -> Response:
        if time_s is None:
            raise HTTPException(409, "it was judged meanwhile in another tab; reload the page")
        return JSONResponse({"done": True, "time_s": time_s})

    def kept(request: Request, body: bytes) -> Response:
        try:
            given = json.loads(body)
            expects = expected(given)
            if "left" in given:
                return chosen(given, expects)
            asked = valid(str(given["caption_id"]))
            row = {name: given.get(name) for name in ("who", "verdict", "seed")} | {"caption_id": asked}
            row["tags"] = [str(tag) for tag in given.get("tags") or []]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise UsageError("the verdict", "cannot be read", "Judge with the page's own keys.") from error
        known = site.index.rows(
            f"{site.scope(request).tables} SELECT s.clip_id, s.version, {_STRATUM} AS stratum "
            "FROM captions s JOIN clips c USING (key) WHERE s.caption_id = ? LIMIT 1",
            [asked],
        )
        if not known:
            raise HTTPException(404, "there is no such caption")
        return told(verdicts.add({**row, "who": name_of(row["who"]), **known[0]}, expects))
