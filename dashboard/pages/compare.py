"""Blind comparison of two versions of captions, a part of the page Check: which of two texts says it better.

Whoever judges does not see which version a text is of; sides are drawn for each clip.
"""

from __future__ import annotations

import hashlib
from typing import Any

from dashboard.asking.scope import Scope
from dashboard.site import Site
from dashboard.verdicts import CHOICES, name_of
from manifests.errors import UsageError
from manifests.intervals import wilson
from manifests.text import valid

_STRATUM = "coalesce(c.camera, 'image') || ', ' || CASE WHEN c.seconds < 4 THEN 'short' ELSE 'long' END"


_SAID = (
    "FROM memory.now.captions WHERE version = ? AND kind = 'dense' AND source NOT IN ('alt', 'ground_truth')"
)
_PAIRED = (
    f"JOIN (SELECT * {_SAID}) a USING (key) JOIN (SELECT * {_SAID}) b USING (key) "
    "WHERE a.text IS DISTINCT FROM b.text"
)
"""Clips, as `c`, that both versions describe in other words."""


def versions(site: Site) -> list[str]:
    """Versions of captions that the dataset has."""
    return [row[0] for row in site.index.tuples("SELECT DISTINCT version FROM captions ORDER BY 1")]


def checked(site: Site, one: str, other: str) -> None:
    """Whether two versions can be compared.

    Raises:
        UsageError: they are one, or are not there.
    """
    known = versions(site)
    for name in (one, other):
        if name not in known:
            raise UsageError(name, "is no version of captions here", f"Versions: {', '.join(known)}.")
    if one == other:
        raise UsageError(f"{one} and {other}", "are one version", f"Versions: {', '.join(known)}.")


def _is_swapped(clip_id: str, seed: int) -> bool:
    return hashlib.sha256(f"{seed}|{clip_id}".encode()).digest()[0] % 2 == 1


def next_pair(
    site: Site, scope: Scope, one: str, other: str, seed: int, done: set[str]
) -> dict[str, Any] | None:
    """The next clip whose two dense captions differ, with these on drawn sides; None when all are judged.

    Every stratum of camera and length has its turn.

    Args:
        done: clips that are judged.
    """
    rows = site.index.rows(
        f"{scope.tables}, drawn AS (SELECT c.clip_id, c.num_frames, a.caption_id AS one_id, a.text AS one, "
        f"b.caption_id AS other_id, b.text AS other, {_STRATUM} AS stratum, row_number() OVER (PARTITION BY "
        f"{_STRATUM} ORDER BY hash(c.clip_id, {seed})) AS turn FROM clips c "
        f"{_PAIRED}) "
        "SELECT * FROM drawn WHERE NOT list_contains(?::VARCHAR[], clip_id) "
        f"ORDER BY turn, hash(stratum, {seed}) LIMIT 1",
        [one, other, sorted(done)],
    )
    if not rows:
        return None
    row = rows[0]
    sides = [
        {"caption_id": row["one_id"], "text": row["one"]},
        {"caption_id": row["other_id"], "text": row["other"]},
    ]
    if _is_swapped(row["clip_id"], seed):
        sides.reverse()
    return {"clip_id": row["clip_id"], "num_frames": row["num_frames"], "left": sides[0], "right": sides[1]}


def num_pairs(site: Site, scope: Scope, one: str, other: str) -> int:
    """Clips of a view whose two dense captions differ."""
    rows = site.index.tuples(f"{scope.tables} SELECT count(*) FROM clips c {_PAIRED}", [one, other])
    return int(rows[0][0])


def judged(site: Site, given: dict[str, Any]) -> dict[str, Any] | None:
    """The row to keep of a choice; None where its captions are not two of one clip.

    Raises:
        UsageError: it is no choice.
    """
    choice, pair = given.get("verdict"), [valid(str(given[side])) for side in ("left", "right")]
    if choice not in (*CHOICES, "undone"):
        raise UsageError("the choice", f"is none of {', '.join(CHOICES)}", "Press 1, 2, 3 or 4.")
    known = {
        row["caption_id"]: row
        for row in site.index.rows(
            "SELECT caption_id, clip_id, version FROM captions WHERE caption_id = ? OR caption_id = ?", pair
        )
    }
    if len(known) < 2 or len({row["clip_id"] for row in known.values()}) > 1:
        return None
    better = {"left": pair[0], "right": pair[1]}.get(str(choice), "")
    return {
        "who": name_of(given.get("who")),
        "clip_id": known[pair[0]]["clip_id"],
        "versions": sorted(row["version"] for row in known.values()),
        "choice": choice,
        "better": known[better]["version"] if better else "",
        "seed": given.get("seed"),
    }


def preferred(rows: list[dict[str, Any]], one: str, other: str) -> dict[str, Any]:
    """How often each of two versions was found better, with the 95 % interval of the first one's share.

    Args:
        rows: as `Verdicts.choices` gives them.
    """
    own = [row for row in rows if row["versions"] == sorted((one, other))]
    wins = [sum(row["better"] == name for row in own) for name in (one, other)]
    low, high = wilson(wins[0], sum(wins))
    alike = sum(row["choice"] == "alike" for row in own)
    return {"judged": len(own), "one": wins[0], "other": wins[1], "alike": alike, "low": low, "high": high}
