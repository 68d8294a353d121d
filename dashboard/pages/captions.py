"""The page Captions: versions side by side, where they disagree, and what is said too often."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from dashboard import drawing
from dashboard.asking.scope import Scope
from dashboard.site import Site
from manifests.errors import UsageError

SAMPLE = 20_000
"""Clips that are compared, drawn by a hash of their id: the same ones each time."""
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_GIVEN = "('alt', 'ground_truth')"
"""Sources of captions that no version wrote."""


_DENSE = (
    "SELECT clip_id, min_by(text, caption_id) AS text FROM captions WHERE version = ? AND kind = 'dense' "
    f"AND source NOT IN {_GIVEN} GROUP BY 1"
)
"""One dense caption of each clip."""


def versions(site: Site) -> list[dict[str, Any]]:
    """Each version: captions by status, their length and their cost."""
    own = f"source NOT IN {_GIVEN}"  # what a captioner wrote, and not what came with the footage
    return site.index.rows(
        f"SELECT version, count(*) FILTER ({own}) AS captions, count(DISTINCT key) AS clips, "
        f"count(*) FILTER (NOT {own}) AS given, "
        f"count(*) FILTER (status = 'accepted' AND {own}) AS accepted, "
        "count(*) FILTER (status = 'rejected') AS rejected, "
        "count(*) FILTER (status = 'out_of_domain') AS out_of_domain, "
        f"median(num_words) FILTER (kind = 'dense' AND {own}) AS words_dense, "
        f"median(num_words) FILTER (kind = 'short' AND {own}) AS words_short, "
        "sum(prompt_tokens)::BIGINT AS prompt_tokens, sum(output_tokens)::BIGINT AS output_tokens, "
        "any_value(backend) FILTER (backend <> '') AS backend, "
        "any_value(model) FILTER (model <> '') AS model "
        "FROM captions GROUP BY 1 ORDER BY 1"
    )


def why_rejected(site: Site, version: str) -> list[dict[str, Any]]:
    """How often each reason was given, whatever its measured value, and the value given most often."""
    return site.index.rows(
        "SELECT kind AS reason, sum(n)::BIGINT AS count, count(*) AS distinct_values, "
        "first(reason ORDER BY n DESC, reason) AS most_often FROM (SELECT reason, "
        "split_part(reason, ':', 1) AS kind, count(*) AS n FROM (SELECT unnest(reasons) AS reason "
        "FROM captions WHERE version = ?) GROUP BY 1, 2) GROUP BY 1 ORDER BY 2 DESC, 1",
        [version],
    )


def said_often(site: Site, version: str, within: str) -> list[dict[str, Any]]:
    """Texts that several clips share.

    Args:
        within: a predicate on shards.
    """
    return site.index.rows(
        f"SELECT text, count(DISTINCT key) AS clips FROM captions WHERE {within} AND version = ? "
        f"AND kind IN ('short', 'dense') AND source NOT IN {_GIVEN} "
        "GROUP BY 1 HAVING clips > 1 ORDER BY clips DESC, text LIMIT 12",
        [version],
    )


def compared(site: Site, one: str, other: str) -> dict[str, Any]:
    """Two versions over the clips that both have: the least alike first, and words gained and lost."""
    rows = site.index.tuples(
        f"SELECT a.clip_id, a.text, b.text FROM ({_DENSE}) a JOIN ({_DENSE}) b USING (clip_id) "
        f"ORDER BY hash(a.clip_id) LIMIT {SAMPLE}",
        [one, other],
    )
    before, after, alike = Counter[str](), Counter[str](), []
    for clip_id, text, second in rows:
        first_words, second_words = (set(_WORD.findall((value or "").lower())) for value in (text, second))
        before.update(first_words)
        after.update(second_words)
        union = first_words | second_words
        alike.append((len(first_words & second_words) / len(union) if union else 1.0, clip_id, text, second))
    alike.sort()
    found = []
    for share, clip_id, text, second in alike[:12]:
        left, right = drawing.word_diff(text or "", second or "")
        found.append({"clip_id": clip_id, "disagreement": 1 - share, "left": left, "right": right})
    gained = [(word, after[word]) for word in after if not before[word]]
    lost = [(word, before[word]) for word in before if not after[word]]
    return {
        "num_compared": len(rows),
        "is_sample": len(rows) == SAMPLE,
        "mean_disagreement": sum(1 - row[0] for row in alike) / len(alike) if alike else None,
        "apart": found,
        "gained": sorted(gained, key=lambda row: (-row[1], row[0]))[:40],
        "lost": sorted(lost, key=lambda row: (-row[1], row[0]))[:40],
    }


def about(site: Site, scope: Scope, one: str, other: str) -> dict[str, Any]:
    """All versions, and what there is to say of two of them; empty where there is none."""
    within, is_sample = site.sample(scope)
    return {
        "versions": versions(site),
        "rejected": {name: why_rejected(site, name) for name in (one, other) if name},
        "often": said_often(site, one, within) if one else [],
        "is_sample": is_sample,
        "compared": compared(site, one, other) if other else None,
    }


def add(app: FastAPI, site: Site) -> None:
    """The routes."""

    @app.get("/captions")
    @app.get("/captions.json")
    def captions(request: Request, a: str = "", b: str = "") -> Response:
        scope = site.scope(request)
        names = [row[0] for row in site.index.tuples("SELECT DISTINCT version FROM captions ORDER BY 1")]
        for name in (a, b):
            if name and name not in names:
                raise UsageError(
                    f"{name}", "is no version of captions here", f"Versions: {', '.join(names)}."
                )
        one = a or _first(scope, names)
        other = b or next((name for name in names if name != one), "")
        other = other if other != one else ""
        is_twin = request.url.path.endswith(".json")
        made = site.later.ask(
            ("captions", scope, one, other), lambda: about(site, scope, one, other), is_twin
        )
        data: dict[str, Any] = {
            "a": one,
            "b": other,
            **(made or {"versions": []}),
            "is_waiting": made is None,
        }
        return site.page(request, "captions.html", data, scope)


def _first(scope: Scope, names: list[str]) -> str:
    chosen = scope.columns.get("caption", "")
    return chosen if chosen in names else (names[0] if names else "")
