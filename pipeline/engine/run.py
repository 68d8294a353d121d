"""A run as the verbs share it: which stages there are, running them on Ray, the final report."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from manifests import cli
from manifests.errors import RushesError, UsageError
from manifests.layout import Column, Dataset
from manifests.runs.events import Aim
from manifests.store import storage
from manifests.tables import planned, scans
from manifests.text import shown_json
from manifests.verbs.upkeep import compacted
from manifests.views import View
from manifests.writing.commit import sweep
from manifests.writing.compact import ENOUGH
from manifests.writing.withdrawn import forget
from pipeline.config import IngestConfig, PlanConfig
from pipeline.curate.stage import Curate
from pipeline.dedup.near_duplicates import Spread
from pipeline.dedup.stage import NOT_DUPLICATE, dedup, on_ray
from pipeline.engine.cluster import preflight
from pipeline.engine.outdated import outdated, take_back
from pipeline.engine.probed import Probed
from pipeline.engine.probing import probe_on_ray
from pipeline.engine.runner import run_stages, start_run
from pipeline.footage.sources import Found, failed_row, list_sources, source_row
from pipeline.plan import make_plan
from pipeline.stages.caption import CaptionStage
from pipeline.stages.caption_summary import caption_summary, print_caption_summary
from pipeline.stages.embed import Embed
from pipeline.stages.encode import Encode
from pipeline.stages.protocol import Stage
from pipeline.stages.score import ScoreStage
from pipeline.stages.text import TextStage

NOT_BLACK = "black_share < 0.9"
_QUIET_S = 2.0
"""Age of unfinished files that nobody holds: all actors of the run have ended."""
_PACKAGES = {
    "rushes",
    "ray",
    "torch",
    "av",
    "decord",
    "pyarrow",
    "scenedetect",
    "scenedetect-headless",
    "numpy",
    "pillow",
}


def build_stages(config: IngestConfig) -> list[Stage]:
    """The stages in the order of their dependence."""
    curate = Curate(config.curate)
    embed: list[Stage] = [Embed(config.embed, curate.column)] if config.embed.model else []
    score = [ScoreStage(config.score, curate.column)] if config.score.use else []
    version = score[0].versions.get("text", "") if score else ""
    caption = CaptionStage(config.caption, curate.column, score[0].column if version else None, version)
    return [
        curate,
        *embed,
        *score,
        caption,
        TextStage(config.text, caption.column, curate.column),
        Encode(config.encode, curate.column),
    ]


def chosen(stages: list[Stage], names: Sequence[str]) -> list[Stage]:
    """The stages of these names; all where there are none.

    Raises:
        UsageError: a stage of that name is not to be run by these settings.
    """
    have = [stage.name for stage in stages]
    if unknown := [name for name in names if name not in have]:
        asked_by = {"score": "--score.use", "embed": "--embed.model"}
        hints = [f" {name} needs {asked_by[name]}." for name in unknown if name in asked_by]
        raise UsageError(
            f"--only {' '.join(unknown)}",
            "is no stage of these settings",
            f"Stages: {', '.join(have)}.{''.join(hints)}",
        )
    return [stage for stage in stages if not names or stage.name in names]


def ready(dataset: Dataset, stages: list[Stage], shards: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of the shards those that have what the stages read and do not make themselves.

    Raises:
        UsageError: none has.
    """
    made = {stage.column for stage in stages}
    found = shards
    for column in sorted({column for stage in stages for column in stage.needs} - made):
        have = set(dataset.committed_shards(column))
        found = [pair for pair in found if pair[0] in have]
        if not found:
            raise UsageError(
                str(column), "is not there yet for any shard", f"Give --only {column.name} first."
            )
    if len(found) < len(shards):
        cli.say(f"ingest: {len(shards) - len(found)} shards lack what is read, and are left for later")
    return found


def save_view(dataset: Dataset, stages: list[Stage], name: str, duplicates: Column | None = None) -> View:
    """Point a view at the columns that these stages made. Its predicate, if it has one, stays."""
    columns = {stage.name: stage.column for stage in stages} | ({"dedup": duplicates} if duplicates else {})
    where = f"{NOT_BLACK} AND {NOT_DUPLICATE}" if duplicates else NOT_BLACK
    with contextlib.suppress(UsageError):
        before = View.load(dataset, name)
        # what a user or another verb put there stays: its predicate may speak of it
        columns = before.columns | columns
        is_of_before_dedup = before.where == NOT_BLACK and "dedup" not in before.columns
        if before.where and not is_of_before_dedup:
            where = before.where
    view = View(columns=columns, where=where)
    view.save(dataset, name)
    return view


def mark_duplicates(
    dataset: Dataset, stages: list[Stage], config: IngestConfig, spread: Spread = on_ray
) -> Column | None:
    """The dedup column over all that is curated, where it is asked for."""
    columns = {stage.name: stage.column for stage in stages}
    return (
        dedup(dataset, columns["preview"], columns.get("embed"), config.dedup, spread)
        if config.dedup.enabled
        else None
    )


def open_for(footage: list[str], out: str) -> tuple[Dataset, list[Found]]:
    """The dataset at `out`, made if missing, and the files that the footage names.

    Files are listed first, so that a wrong path leaves nothing behind.

    Raises:
        UsageError: the footage names nothing at all and there is no plan to go on with.
    """
    cli.check_lasting(out)
    found = list_sources(footage)
    before = Dataset.open_if_there(out)
    if not found and (before is None or not before.generations()):
        raise UsageError(
            ", ".join(footage) or "no footage",
            "holds no file to ingest",
            "Name folders, files, patterns or lists of videos and images.",
        )
    return before or Dataset.create(out), found


def plan_generation(
    dataset: Dataset,
    found: list[Found],
    config: PlanConfig,
    retries_failed: bool = False,
    opened: Sequence[str] = (),
    roots: Sequence[str] = (),
) -> None:
    """Append the new files to the plan; with `retries_failed`, also those that could not be read before.

    Args:
        opened, roots: see `make_plan`.
    """
    probed = Probed(dataset)
    probing = probe_on_ray(source_row, failed_row, keep=probed.keep)

    def going_on(files: list[Found]) -> list[dict]:
        known, left = probed.known(files)
        if known:
            cli.say(f"plan: {len(known)} files were probed by a run before this one, {len(left)} are left")
        return known + probing(left)

    rows = make_plan(dataset, found, config, going_on, retries_failed, opened, roots)
    probed.clear()
    counts = Counter(row["status"] for row in rows)
    cli.say(
        f"plan: {len(rows)} new files: {counts['kept']} kept, {counts['dropped']} dropped, "
        f"{counts['failed']} failed"
    )


def execute(
    dataset: Dataset,
    stages: list[Stage],
    config: IngestConfig,
    is_autoscaling: bool,
    where: str,
    is_json: bool = False,
    view: str = "",
    aim: Aim | None = None,
    wanted: Mapping[str, Collection[int]] | None = None,
) -> int:
    """Run the stages over all shards and print the outcome; returns the exit code.

    What was made of less than there is now, as before a retry of what it reads, is made again.

    Args:
        view: point this view at the columns, near-duplicates left out; empty for none.
        aim: what the run works for, where that is not the view of these columns alone.
        wanted: by stage the shards to make, where not all that lack its column are.
    """
    resources = {stage.name: config.resources()[stage.name] for stage in stages}
    shards = list(planned.shards(dataset).items())
    if not shards:
        raise UsageError(
            dataset.uri,
            "has no plan with anything in it",
            "No source could be kept; see `rushes ls DATASET sources`.",
        )
    actors = preflight(resources, is_autoscaling)
    if wanted is None:
        shards = ready(dataset, stages, shards)
        known = {shard for shard, _ in shards}
        old = {shard: names for shard, names in outdated(dataset, stages).items() if shard in known}
        if old:
            count = sum(len(names) for names in old.values())
            cli.say(
                f"ingest: {count} shard columns are made again, as what they read holds more clips by now"
            )
            take_back(dataset, stages, old)
    versions = {
        item.name: item.version for item in importlib.metadata.distributions() if item.name in _PACKAGES
    }
    made = {stage.name: stage.column for stage in stages}
    aim = aim or Aim(view=view, columns=made)
    run_id = start_run(dataset, sys.argv, config.to_dict(), versions, where, list(made.values()), aim)
    outcome = run_stages(dataset, stages, shards, run_id, actors, resources, wanted)
    forget(dataset, [stage.column for stage in stages])
    if storage.is_local(dataset.filesystem):  # of actors that were killed; those that live hold theirs
        for stage in stages:
            sweep(Path(dataset.path("columns", str(stage.column))), quiet_s=_QUIET_S)
    try:
        compacted(dataset, ENOUGH)
    except RushesError as error:  # of a file that was damaged since: what is committed stays as it is
        cli.say(f"compact: small files stay small, {error}")
    duplicates = mark_duplicates(dataset, stages, config) if view else None
    if view:
        save_view(dataset, stages, view, duplicates)
    return report(dataset, stages, duplicates, outcome.shard_errors, outcome.seconds, run_id, is_json)


def funnel(dataset: Dataset, columns: list[Column]) -> list[dict]:
    """Counts of each step: in = kept + dropped + failed, and how often each reason was given."""
    latest = scans.newest_sources(dataset, ["status", "reason"]).to_pylist()
    sources = Counter(row["status"] for row in latest)
    reasons = Counter(row["reason"] for row in latest if row["status"] != "kept")
    steps: list[dict] = [
        {
            "stage": "plan",
            "column": "-",
            "in": sum(sources.values()),
            **{key: sources[key] for key in ("kept", "dropped", "failed")},
            "reasons": dict(reasons),
        }
    ]
    for column in columns:
        keys = ("in", "kept", "dropped", "failed")
        records = scans.table(dataset, "shards", column, [f"num_{key}" for key in keys])
        found = Counter(scans.table(dataset, "drops", column, ["reason"])["reason"].to_pylist()) + Counter(
            scans.table(dataset, "failures", column, ["error"])["error"].to_pylist()
        )
        numbers = {key: pc.sum(records[f"num_{key}"]).as_py() or 0 for key in keys}
        steps.append(
            {"stage": column.name, "column": str(column), **numbers, "reasons": dict(sorted(found.items()))}
        )
    return steps


def report(
    dataset: Dataset,
    stages: list[Stage],
    duplicates: Column | None,
    shard_errors: list[str],
    seconds: float,
    run_id: str,
    is_json: bool,
) -> int:
    """Write the run's summary, print it, and return the exit code."""
    steps = funnel(dataset, [stage.column for stage in stages] + ([duplicates] if duplicates else []))
    names = {stage.name for stage in stages}
    num_failed = sum(step["failed"] for step in steps if step["stage"] != "plan" or "preview" in names)
    code, words = outcome_of(num_failed, len(shard_errors))
    summary: dict[str, Any] = {
        "outcome": words,
        "exit_code": code,
        "seconds": round(seconds, 3),
        "dataset": dataset.uri,
        "run_id": run_id,
        "funnel": steps,
        "shard_errors": shard_errors,
    }
    captioned = next((stage.column for stage in stages if stage.name == "caption"), None)
    if captioned and not shard_errors:
        summary["captions"] = caption_summary(dataset, captioned, run_id)
    path = dataset.path("runs", run_id, "summary.json")
    storage.write_bytes(dataset.filesystem, path, json.dumps(shown_json(summary), indent=2).encode())
    print_summary(summary, is_json)
    return code


def outcome_of(num_failed: int, num_shard_errors: int) -> tuple[int, str]:
    """Exit code and words of a run with so many failed items and so many shards that did not end."""
    if num_shard_errors:
        return cli.FAILED, f"failed: {num_shard_errors} shards have errors"
    if num_failed:
        return cli.FAILED_ITEMS, f"done, {num_failed} items failed (each is a row in `failures`)"
    return cli.DONE, "done"


def next_steps(summary: dict[str, Any]) -> list[str]:
    """Commands that one would give after a run."""
    where = shlex.quote(summary["dataset"])
    again = [f"rushes retry {where}"] if summary["exit_code"] else []
    has_latents = any(step["stage"] == "latent" for step in summary["funnel"])
    train = [f"rushes fit tiny --data {where}"] if has_latents else []  # a part of the stages makes no view
    return [*again, f"rushes dashboard {where} --open", f"rushes verify --deep {where}", *train]


def print_summary(summary: dict[str, Any], is_json: bool) -> None:
    """Print a run's summary as JSON, or for people with the outcome in the last line."""
    if "captions" in summary:
        print_caption_summary(summary["captions"])
    for error in summary["shard_errors"]:
        cli.say(f"error: {error}")
    if is_json:
        cli.print_json(summary)
        return
    counts = ("stage", "column", "in", "kept", "dropped", "failed")
    rows = []
    for step in summary["funnel"]:
        reasons = ", ".join(f"{key} {value}" for key, value in step["reasons"].items())
        rows.append([*(step[key] for key in counts), reasons])
    cli.print_table("funnel", [*counts, "reasons"], rows)
    for line in next_steps(summary):
        cli.say(f"next: {line}")
    seconds, code = summary["seconds"], summary["exit_code"]
    cli.print_line(f"outcome: {summary['outcome']}; {seconds:.0f} s; {summary['dataset']}; exit code {code}")
