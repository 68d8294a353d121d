"""One clip: its video, its captions by version with what differs, its latent, where it is from."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from dashboard import drawing
from dashboard.asking.scope import Scope
from dashboard.pages.clips import among
from dashboard.site import Site
from dashboard.training import read_of


def captions_by_version(site: Site, scope: Scope, clip_id: str, shards: list[int]) -> list[dict[str, Any]]:
    """The captions of a clip by the version that wrote them, the scope's first."""
    rows = site.index.rows(
        f"SELECT * EXCLUDE (low) FROM captions WHERE {among(shards)} AND clip_id = ? ORDER BY version, kind",
        [clip_id],
    )
    kinds = {"dense": 0, "short": 1, "structured": 2, "alt": 3, "window": 4}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: kinds.get(row["kind"], 9)):
        scores = json.loads(row["scores_json"] or "{}")
        found.setdefault(row["version"], []).append(
            {**row, "scores": scores, "shown": drawing.shown(row["text"])}
        )
    first = scope.columns.get("caption")
    return [
        {"version": version, "captions": found[version], "is_of_view": version == first}
        for version in sorted(found, key=lambda version: (version != first, version))
    ]


def differences(versions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The word diffs of the first two versions, for each kind that both have."""
    if len(versions) < 2:
        return []
    one, other = ({row["kind"]: row for row in version["captions"]} for version in versions[:2])
    found = []
    for kind in one:
        if kind in other and one[kind]["text"] != other[kind]["text"] and kind != "window":
            left, right = drawing.word_diff(one[kind]["text"], other[kind]["text"])
            found.append({"kind": kind, "left": left, "right": right})
    return found


def one_clip(site: Site, scope: Scope, clip_id: str) -> dict[str, Any]:
    """All that is known of a clip.

    Raises:
        HTTPException: there is none of that id.
    """
    version = scope.columns.get("preview", "")
    place = site.index.tuples(
        "SELECT shard, version FROM place WHERE clip_id = ? ORDER BY version <> ?", [clip_id, version]
    )
    if not place:
        raise site.missing(f"there is no clip {clip_id}")
    shard, version = place[0]
    (clip,) = site.index.rows(
        "SELECT * FROM clips WHERE version = ? AND shard = ? AND clip_id = ?", [version, shard, clip_id]
    )
    versions = captions_by_version(site, scope, clip_id, [row[0] for row in place])
    members = site.index.rows(
        "SELECT version, field, size_bytes FROM members WHERE shard = ? AND clip_id = ? "
        "ORDER BY version, field",
        [shard, clip_id],
    )
    shown = {version, scope.columns.get("latent", "")}
    fields = {row["field"] for row in members if row["version"] in shown}
    source = site.index.rows("SELECT * FROM sources WHERE source_id = ? LIMIT 1", [clip["source_id"]])
    group = site.index.rows(
        "SELECT d.* FROM duplicates d WHERE d.version = ? AND d.group_id IN (SELECT group_id FROM duplicates "
        "WHERE clip_id = ? AND version = ?) ORDER BY NOT is_kept, clip_id LIMIT 24",
        [scope.columns.get("dedup", ""), clip_id, scope.columns.get("dedup", "")],
    )
    is_meant = site.index.value(
        f"{scope.tables} SELECT count(*) FROM clips WHERE shard = ? AND clip_id = ?", [shard, clip_id]
    )
    marks = [
        {"at": time_s, "index": index}
        for index, time_s in enumerate(clip["preview_times_s"] or [])
        if f"frame{index:03d}.jpg" in fields
    ]
    return {
        "clip": clip,
        "is_meant": bool(is_meant),
        "versions": versions,
        "differences": differences(versions),
        "latents": site.index.rows(
            "SELECT * FROM latents WHERE shard = ? AND clip_id = ? AND version = ?",
            [shard, clip_id, scope.columns.get("latent", "")],
        ),
        "scores": site.index.rows(
            "SELECT * FROM scores WHERE shard = ? AND clip_id = ? AND version = ? ORDER BY scorer",
            [shard, clip_id, scope.columns.get("score", "")],
        ),
        "has_filmstrip": "latent.png" in fields,
        "marks": marks,
        "looked_at": sorted(
            {i for v in versions for row in v["captions"] for i in row["frame_indices"] or []}
        ),
        "members": members,
        "source": source[0] if source else None,
        "group": group,
        "neighbours": _neighbours(site, scope, clip["source_id"]),
        "is_on_map": bool(
            site.index.value(
                f'{scope.tables} SELECT count(*) FROM "map" WHERE shard = ? AND clip_id = ?', [shard, clip_id]
            )
        ),
        "read": [row for row in read_of(site, [clip_id]) if row["times"]],
    }


def _neighbours(site: Site, scope: Scope, source_id: str) -> list[dict[str, Any]]:
    """Other clips of a source, in its order."""
    shards = site.index.tuples(  # an id begins with that of its source
        "SELECT DISTINCT shard FROM place WHERE clip_id >= ? AND clip_id < ?",
        [f"{source_id}-", f"{source_id}."],
    )
    return site.index.rows(
        f"{scope.tables} SELECT clip_id, start_s FROM clips WHERE {among([row[0] for row in shards])} "
        "AND source_id = ? ORDER BY start_s LIMIT 200",
        [source_id],
    )


def add(app: FastAPI, site: Site) -> None:
    """The routes."""

    @app.get("/clips/{clip_id}")
    @app.get("/clips/{clip_id}.json")
    def clip(request: Request, clip_id: str, t: float = 0.0) -> Response:
        scope = site.scope(request)
        return site.page(request, "clip.html", one_clip(site, scope, clip_id) | {"t": t}, scope)
