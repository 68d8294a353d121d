"""What a dataset's runs worked for, and the stages and settings that made its columns, read back from their
records."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from manifests import cli
from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.runs.events import Aim, run_aim, run_config, run_ids
from manifests.store import storage
from manifests.store.json_files import read_object
from manifests.views import View
from pipeline.config import IngestConfig
from pipeline.engine.run import build_stages
from pipeline.stages.protocol import Stage

_SECTIONS = {"preview": "curate", "latent": "encode"}
"""Of settings, where they are not named as the column that they make."""
_MADE_BY_RUNS = ("preview", "embed", "score", "caption", "text", "latent")


def stages_of_run(dataset: Dataset, columns: Collection[Column] = ()) -> tuple[list[Stage], IngestConfig]:
    """Stages and settings of the last run that makes all of these columns, as far as runs make them.

    Where runs have made them in turns (clips captioned again with other settings of encoding), each section
    is that of the last run that made its column.

    Raises:
        UsageError: no run of this dataset is like that.
    """
    whole: IngestConfig | None = None
    sections: dict[str, Any] = {}
    for run_id in reversed(run_ids(dataset)):
        stored = run_config(dataset, run_id)
        try:
            config = IngestConfig.from_dict(stored)
            stages = build_stages(config)
        except (TypeError, UsageError):  # of another version, or its weights are not here
            continue
        if _makes(stages, columns):
            return stages, config
        for stage in stages:
            if stage.column in columns:
                section = _SECTIONS.get(stage.name, stage.name)
                sections.setdefault(section, getattr(config, section))
        whole = whole or config
    if whole and sections:
        config = replace(whole, **sections)
        stages = build_stages(config)
        if _makes(stages, columns):
            return stages, config
    named = ", ".join(sorted(str(column) for column in columns if column.name in _MADE_BY_RUNS))
    raise UsageError(
        dataset.uri,
        f"has no run whose settings make {named or 'its columns'} with this version",
        "Run `rushes ingest` first.",
    )


def _makes(stages: list[Stage], columns: Collection[Column]) -> bool:
    """Whether these stages make all of the columns, as far as they make columns of their names."""
    made = {stage.name: stage.column for stage in stages}
    return all(made[column.name] == column for column in columns if column.name in made)


def aim_of(dataset: Dataset, view: str = "") -> Aim:
    """What is to be done again: a view's columns, or those of the last run; of single stages, of those before
    it too.

    Where the view was never written, as its shards had errors, they are those of the last run that was to.

    Args:
        view: its name; empty for what the last run worked for.
    """
    known = list(aims(dataset))
    last = known[0] if known else Aim(view="default")
    if not view and not last.view:
        return Aim(columns=_of_parts(dataset, known))
    aim = last if not view else next((aim for aim in known if aim.view == view), None)
    if aim is None:
        if view not in (names := View.names(dataset)):
            there = ", ".join(names) or "none; `rushes ingest` makes one"
            raise UsageError(f"--view {view}", "is no view of this dataset", f"There are: {there}.")
        aim = Aim(view=view)
    with contextlib.suppress(UsageError):
        found = View.load(dataset, aim.view)
        # the last run may not have come so far as to point the view at its columns
        columns = found.columns if view or is_written(dataset) else {**found.columns, **aim.columns}
        return Aim(view=aim.view, columns=columns, where=found.where)
    return aim


def aims(dataset: Dataset) -> Iterator[Aim]:
    """What runs worked for, the last one first; without those of before that was recorded."""
    for run_id in reversed(run_ids(dataset)):
        if (aim := run_aim(dataset, run_id)).columns:
            yield aim


def recorded_aim(dataset: Dataset, aim: Aim) -> Aim | None:
    """What a retry is to be recorded as: of single stages as the run that it repeats."""
    if aim.view or not aim.columns:
        return aim if aim.columns else None
    return next(aims(dataset), aim)


def is_written(dataset: Dataset) -> bool:
    """Whether the last run that worked for something came to its end, and so to its view, which people may
    have edited since."""
    for run_id in reversed(run_ids(dataset)):
        if run_aim(dataset, run_id).columns:
            path = dataset.path("runs", run_id, "summary.json")
            if not storage.exists(dataset.filesystem, path):
                return False
            return read_object(dataset.filesystem, path).get("exit_code") in (cli.DONE, cli.FAILED_ITEMS)
    return True


def is_shown(dataset: Dataset, aim: Aim) -> bool:
    """Whether the view that is worked for is written; a run may have died before."""
    return not aim.view or (aim.view in View.names(dataset) and is_written(dataset))


def _of_parts(dataset: Dataset, aims: list[Aim]) -> dict[str, Column]:
    """The columns of the last runs of single stages, one after the other: of each name the newest that goes
    with the newer ones."""
    found = dict(aims[0].columns)
    for aim in itertools.takewhile(lambda aim: not aim.view, aims[1:]):
        new = {name: column for name, column in aim.columns.items() if name not in found}
        if not new:
            continue
        with contextlib.suppress(UsageError):  # it reads other columns than these
            stages, _ = stages_of_run(dataset, [*found.values(), *new.values()])
            made = {stage.name: stage for stage in stages}
            both = found | new
            if all(
                need in both.values() or dataset.committed_shards(need)
                for name in new
                for need in (made[name].needs if name in made else ())
            ):
                found = both
    return found
