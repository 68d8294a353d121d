"""`retry` does failed work again; `replay` does one shard's stage again and compares the bytes."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import tyro
from pyarrow import fs

from manifests import cli
from manifests.cli.ranges import COUNT_OR_NONE, Ranges
from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.runs.events import Aim, run_aim, run_config, run_ids
from manifests.signals import interrupt_on_signals
from manifests.tables import planned, records, scans
from manifests.text import shown
from manifests.views import View
from manifests.writing.lease import Lease
from manifests.writing.withdrawn import withdraw
from pipeline.config import IngestConfig
from pipeline.engine.cluster import session
from pipeline.engine.run import build_stages, execute, plan_generation
from pipeline.footage.sources import listed_again
from pipeline.stages.protocol import Stage, run_stage

_SECTIONS = {"preview": "curate", "latent": "encode"}
"""Of settings, where they are not named as the column that they make."""
_ONLY_BY_HAND = ("name_not_utf8", "no_name")
"""What fails again until a file or a list is mended and given anew."""
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


def shards_to_retry(dataset: Dataset, stages: list[Stage]) -> dict[int, list[str]]:
    """By shard, the stages that had failures, and those that read their columns."""
    forced: dict[int, list[str]] = defaultdict(list)
    changed: dict[int, set[Column]] = defaultdict(set)
    for stage in stages:
        for record in scans.table(dataset, "shards", stage.column, ["shard", "num_failed"]).to_pylist():
            shard = record["shard"]
            if record["num_failed"] or changed[shard] & set(stage.needs):
                forced[shard].append(stage.name)
                changed[shard].add(stage.column)
    return dict(forced)


def take_back(dataset: Dataset, stages: list[Stage], forced: dict[int, list[str]]) -> None:
    """Take commits back, those of columns that read others first.

    So at no moment is a column there whose input is not.
    """
    for stage in reversed(stages):
        shards = sorted(shard for shard, names in forced.items() if stage.name in names)
        withdraw(dataset, stage.column, shards)


def aim_of(dataset: Dataset, view: str = "") -> Aim:
    """What is to be done again: a view's columns, or those of the last run.

    Where the view was never written, as its shards had errors, they are those of the last run that was to.

    Args:
        view: its name; empty for what the last run worked for.
    """
    runs = [run_aim(dataset, run_id) for run_id in reversed(run_ids(dataset))]
    aims = [aim for aim in runs if aim.columns]
    last = aims[0] if aims else Aim(view="default")
    if not view and not last.view:
        return last
    aim = last if not view else next((aim for aim in aims if aim.view == view), Aim(view=view))
    with contextlib.suppress(UsageError):
        found = View.load(dataset, aim.view)
        # the last run may not have come so far as to point the view at its columns
        columns = found.columns if view else {**found.columns, **aim.columns}
        return Aim(view=aim.view, columns=columns, where=found.where)
    return aim


def _left_to_the_view(dataset: Dataset, stages: Collection[Stage]) -> int:
    """Shard columns of the default view with failures, of other stages than these."""
    own = {stage.column for stage in stages}
    try:
        others, _ = stages_of_run(dataset, View.load(dataset).columns.values())
    except UsageError:  # there is no view, or nobody knows how its columns were made
        return 0
    found = shards_to_retry(dataset, [stage for stage in others if stage.column not in own])
    return sum(len(names) for names in found.values())


def _refuse_masked(config: IngestConfig, view: str) -> None:
    """Refuse settings whose secrets a run's record does not hold, before anything is taken back.

    Raises:
        UsageError: the captioning server's address had a user or a query.
    """
    server = config.caption.server
    if server and shown(server) == server and ("***@" in server or "?..." in server):
        raise UsageError(
            f"caption server {server}",
            "had a user or a query, which no record keeps",
            f"Run `rushes recaption` with the same settings and the whole address (view {view}).",
        )


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Do what failed again: unreadable sources, failed items of shards, and what is made from them.

    The commit records of those columns are taken back first, so that whatever dies midway, the next retry or
    ingest makes what is missing. What had not failed is copied byte for byte; captions that were paid for are
    not asked for again.

    Examples:
      rushes retry DATASET
      rushes retry DATASET --view vlm
    """

    dataset: Annotated[str, tyro.conf.Positional]
    """Dataset folder or address."""
    view: str = ""
    """View whose columns are meant; what the last run worked for if left out."""
    autoscaling: bool = False
    """Trust the cluster's autoscaler to bring nodes that are not there yet."""
    dry_run: bool = False
    """Say what would be done and stop."""
    json: bool = False
    """Print the outcome and the funnel as JSON."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        aim = aim_of(dataset, self.view)
        stages, config = stages_of_run(dataset, aim.columns.values())
        if not aim.view:  # of single stages
            stages = [stage for stage in stages if stage.column in aim.columns.values()]
        fields = ["uri", "status", "reason", "alt", "metadata_json"]
        latest = {row["uri"]: row for row in scans.newest_sources(dataset, fields).to_pylist()}
        sources = [
            row
            for _, row in sorted(latest.items())
            if row["status"] == "failed" and row["reason"] not in _ONLY_BY_HAND
        ]
        if not aim.view and sources:  # new clips need all stages
            cli.say(f"retry: {len(sources)} sources that failed are left to `rushes retry --view default`")
            sources = []
        forced = shards_to_retry(dataset, stages)
        if not aim.view and (count := _left_to_the_view(dataset, stages)):
            cli.say(f"retry: {count} shard columns with failures are left to `rushes retry --view default`")
        cli.print_table(
            "to retry",
            ["sources", "shard columns"],
            [[len(sources), sum(len(names) for names in forced.values())]],
        )
        if self.dry_run:
            return cli.DONE
        if any("caption" in names for names in forced.values()):
            _refuse_masked(config, aim.view)
        interrupt_on_signals()
        with Lease(dataset), session() as where:
            if sources:
                found = listed_again(sources)
                opened = sorted({row["uri"] for row in sources} - {item.uri for item in found})
                plan_generation(dataset, found, config.plan, retries_failed=True, opened=opened)
            take_back(dataset, stages, forced)
            is_there = aim.view in View.names(dataset) or not aim.where  # else it is another's to copy
            code = execute(
                dataset,
                stages,
                config,
                self.autoscaling,
                where,
                is_json=self.json,
                view=aim.view if is_there else "",
                aim=aim if aim.columns else None,
            )
        if not is_there and aim.view and code in {cli.DONE, cli.FAILED_ITEMS}:
            View(columns=dict(aim.columns), where=aim.where).save(dataset, aim.view)
        return code


class Beside(Dataset):
    """A dataset that reads as the original but writes one column below `runs/replay/`."""

    def __init__(self, original: Dataset, column: Column) -> None:
        super().__init__(original.uri)
        self.column = column

    def _moved(self, path: str, column: Column | str) -> str:
        return self.path("runs", "replay", self.relative(path)) if str(column) == str(self.column) else path

    def tar_path(self, column: Column, shard: int, sha256: str) -> str:
        return self._moved(super().tar_path(column, shard, sha256), column)

    def part_path(self, table: str, column: Column | str, shard: int, sha256: str) -> str:
        return self._moved(super().part_path(table, column, shard, sha256), column)

    def record_path(self, column: Column, shard: int) -> str:
        return self._moved(super().record_path(column, shard), column)

    def covers(self, column: Column, shard: int) -> bool:
        return column != self.column and super().covers(column, shard)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Do one stage's work on one shard again, without Ray, and compare it with what is committed.

    For debugging a stage on the very input it met, and for proving that a column is a function of its inputs.
    The dataset stays as it is; what is made lies below runs/replay. Exit code 4 where the bytes differ.

    Example: rushes replay preview 3 --dataset DATASET
    """

    ranges: ClassVar[Ranges] = {"shard": COUNT_OR_NONE}

    stage: Annotated[str, tyro.conf.Positional]
    """preview, embed, score, caption, text or latent."""
    shard: Annotated[int, tyro.conf.Positional]
    """Shard number."""
    dataset: str
    """Dataset folder or address."""
    view: str = ""
    """View whose columns are meant; what the last run worked for if left out."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        stages, _ = stages_of_run(dataset, aim_of(dataset, self.view).columns.values())
        stage = next((stage for stage in stages if stage.name == self.stage), None)
        if stage is None:
            raise UsageError(
                self.stage,
                "is no stage of the last run",
                f"Stages: {', '.join(stage.name for stage in stages)}.",
            )
        generation = planned.shards(dataset).get(self.shard)
        if generation is None:
            raise UsageError(f"shard {self.shard}", "is not in the plan", "See `rushes status DATASET`.")
        stage.setup()
        earlier = dataset.path("runs", "replay")
        if dataset.filesystem.get_file_info(earlier).type == fs.FileType.Directory:
            dataset.filesystem.delete_dir(earlier)
        beside = Beside(dataset, stage.column)
        account, seconds = run_stage(stage, beside, "replay", self.shard, generation, cli.say, is_forced=True)
        assert account is not None
        cli.say(
            f"{stage.column} shard {self.shard}: {account.num_kept} kept, {account.num_dropped} dropped, "
            f"{account.num_failed} failed in {seconds:.1f} s"
        )
        if not dataset.is_committed(stage.column, self.shard):
            cli.print_line(f"made in {beside.path('runs', 'replay')}; nothing is committed to compare with")
            return cli.DONE
        [old], [new] = (
            records.rows_of_shard(place, "shards", stage.column, self.shard) for place in (dataset, beside)
        )
        before, after = ({item["name"]: item["crc32"] for item in record["members"]} for record in (old, new))
        members = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        digests = [  # an older version wrote parts without rows, too
            {part["table"]: part["sha256"] for part in record["parts"] if part["rows"]}
            for record in (old, new)
        ]
        tables = sorted(
            name
            for name in digests[0].keys() | digests[1].keys()
            if digests[0].get(name) != digests[1].get(name)
        )
        if old["tar_sha256"] == new["tar_sha256"] and not tables:
            cli.print_line(f"the same bytes as committed: {len(before)} members, {len(digests[0])} tables")
            return cli.DONE
        print(
            f"differs from what is committed: members {', '.join(members) or 'none'}; tables "
            f"{', '.join(tables) or 'none'}"
        )
        return cli.INTEGRITY
