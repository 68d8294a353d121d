"""The card of a dataset: what is in it, where it came from, and how it was made, as a page of Markdown."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from manifests import snapshots
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.runs.events import run_ids
from manifests.sql import queries
from manifests.store.json_files import read_object
from manifests.tables import scans
from manifests.views import View
from manifests.writing.removing import tokens

_SOURCES = """
SELECT status, coalesce(kind, '-') AS kind, count(*) AS files, sum(duration_s) / 3600 AS hours,
  sum(size_bytes) / 1e9 AS gigabytes
FROM sources GROUP BY ALL ORDER BY ALL
"""
_LICENCES = """
SELECT coalesce(licence, 'not stated') AS licence, count(*) AS files, sum(duration_s) / 3600 AS hours
FROM sources WHERE status = 'kept' GROUP BY ALL ORDER BY files DESC, licence LIMIT 20
"""
_ORIGINS = """
SELECT coalesce(nullif(regexp_extract(origin, '^[a-z]+://(?:[^/@]*@)?([^/?#]+)', 1), ''),
  nullif(trim(origin), ''), 'not stated') AS host, count(*) AS files
FROM sources WHERE status = 'kept' GROUP BY ALL ORDER BY files DESC, host LIMIT 20
"""
_CLIPS = """
SELECT kind, count(*) AS clips, sum(end_s - start_s) / 3600 AS hours,
  quantile_cont(end_s - start_s, [0.05, 0.5, 0.95]) AS "seconds at .05 .5 .95",
  quantile_cont(fps, [0.05, 0.5, 0.95]) AS "fps at .05 .5 .95", count(DISTINCT source_id) AS sources
FROM clips GROUP BY kind ORDER BY kind
"""
_SHAPES = """
SELECT CASE WHEN width_px > 1.1 * height_px THEN 'wide' WHEN height_px > 1.1 * width_px THEN 'tall'
  ELSE 'square' END AS shape, CASE WHEN width_px * height_px >= 1920 * 1080 THEN '1080p and more'
  WHEN width_px * height_px >= 1280 * 720 THEN '720p to 1080p' ELSE 'under 720p' END AS size,
  count(*) AS clips
FROM clips GROUP BY ALL ORDER BY clips DESC
"""
_CAPTIONS = """
SELECT kind, source, coalesce(nullif(model, ''), '-') AS model, count(*) AS captions,
  avg((status = 'accepted')::INT) AS accepted, avg(num_words) AS words
FROM captions WHERE kind <> 'window' GROUP BY ALL ORDER BY ALL
"""
_ACCOUNTS = """
SELECT "column" || '@' || fingerprint AS "column", count(*) AS shards, sum(num_in) AS "in",
  sum(num_kept) AS kept, sum(num_dropped) AS dropped, sum(num_failed) AS failed,
  sum(coalesce(tar_bytes, 0)) / 1e9 AS gigabytes
FROM shards GROUP BY ALL ORDER BY ALL
"""
_REASONS = """
SELECT what, stage, reason, count(*) AS times FROM (
  SELECT status AS what, 'plan' AS stage, reason FROM sources WHERE status <> 'kept' UNION ALL
  SELECT 'dropped', stage, reason FROM drops WHERE stage <> 'plan' UNION ALL
  SELECT 'failed', stage, error FROM failures WHERE stage <> 'plan'
) GROUP BY ALL ORDER BY times DESC, reason
"""


def dataset_card(dataset: Dataset, view_name: str = "default") -> str:
    """The page: sources and licences, clips and captions of a view, the funnel, versions.

    Raises:
        UsageError: there is no view of that name, though there are others.
    """
    view = View.load(dataset, view_name) if View.names(dataset) or view_name != "default" else None
    columns = view.columns if view else None
    sources = {"sources": scans.newest_sources(dataset)}
    name = dataset.address.partition("?")[0].rstrip("/").rpartition("/")[2]
    lines = [f"# {name}", "", *_about(dataset)]
    lines += ["", "## Sources", "", *_asked(dataset, _SOURCES, instead=sources)]
    lines += ["", "## Licences", "", *_asked(dataset, _LICENCES, instead=sources)]
    lines += ["", "## Where it came from", "", *_asked(dataset, _ORIGINS, instead=sources)]
    if view:
        kept = view.clips(dataset, ["start_s", "end_s"])
        seconds = sum(end - start for start, end in zip(*(c.to_pylist() for c in kept.columns), strict=True))
        lines += ["", f"## Clips of the view {view_name}", ""]
        lines += [
            f"It keeps {kept.num_rows:,} clips, {seconds / 3600:.3g} hours, where",
            "",
            f"    {view.where}",
        ]
        lines += ["", "All clips of its columns:", "", *_asked(dataset, _CLIPS, columns)]
        lines += ["", *_asked(dataset, _SHAPES, columns)]
        lines += ["", "## Captions", "", *_asked(dataset, _CAPTIONS, columns)]
    lines += ["", "## What became of everything", "", *_asked(dataset, _ACCOUNTS)]
    of_which = f"Of the sources, and in the columns of the view {view_name}:" if view else "Of all versions:"
    lines += ["", of_which, "", *_asked(dataset, _REASONS, columns, sources)]
    lines += ["", "## How it was made", "", *_made(dataset)]
    return "\n".join(lines) + "\n"


def _about(dataset: Dataset) -> list[str]:
    when = time.strftime("%Y-%m-%d", time.gmtime())
    named = ", ".join(snapshots.names(dataset.filesystem, dataset.root)) or "none"
    removed = len(tokens(dataset))
    return [
        f"A dataset of `rushes`, format {dataset.header.get('format')}, as of {when}. Snapshots with a name: "
        f"{named}. Sources taken down: {removed}."
    ]


def _made(dataset: Dataset) -> list[str]:
    """Versions and settings of the newest run."""
    runs = run_ids(dataset)
    if not runs:
        return ["No run has written a record."]
    record = read_object(dataset.filesystem, dataset.path("runs", runs[-1], "run.json"))
    versions = ", ".join(f"{key} {value}" for key, value in sorted(record.get("versions", {}).items()))
    settings = json.dumps(record.get("config", {}), indent=1, sort_keys=True)
    return [
        f"{len(runs)} runs; the newest with {versions or 'unknown versions'}:",
        "",
        "```",
        settings,
        "```",
    ]


def _asked(
    dataset: Dataset, query: str, columns: Any = None, instead: Mapping[str, pa.Table] | None = None
) -> list[str]:
    """A query's rows as a table of Markdown; a word where there are none."""
    try:
        found = queries.sql(dataset, query, columns, instead=instead)
    except UsageError as error:
        return [f"Cannot be told: {error}"]
    rows = [[_shown(value) for value in row.values()] for row in found.to_pylist()]
    return _table(found.schema.names, rows) if rows else ["None."]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_shown(one) for one in value)
    if isinstance(value, float):
        return f"{value:.3g}"
    text = f"{value:,}" if isinstance(value, int) else str("-" if value is None else value)
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]
