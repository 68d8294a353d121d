"""`retry` does failed work again; `replay` does one shard's stage again and compares the bytes."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator
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
from pipeline.config import IngestConfig
from pipeline.engine.cluster import session
from pipeline.engine.outdated import lacking, shards_to_retry, take_back
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


def aim_of(dataset: Dataset, view: str = "") -> Aim:
    """What is to be done again: a view's columns, or those of the last run.

    Where the view was never written, as its shards had errors, they are those of the last run that was to.

    Args:
        view: its name; empty for what the last run worked for.
    """
    aims = list(_aims(dataset))
    last = aims[0] if aims else Aim(view="default")
    if not view and not last.view:
        return Aim(columns=_of_parts(dataset, aims))
    aim = last if not view else next((aim for aim in aims if aim.view == view), None)
    if aim is None:
        if view not in (names := View.names(dataset)):
            there = ", ".join(names) or "none; `rushes ingest` makes one"
            raise UsageError(f"--view {view}", "is no view of this dataset", f"There are: {there}.")
        aim = Aim(view=view)
    with contextlib.suppress(UsageError):
        found = View.load(dataset, aim.view)
        # the last run may not have come so far as to point the view at its columns
        columns = found.columns if view else {**found.columns, **aim.columns}
        return Aim(view=aim.view, columns=columns, where=found.where)
    return aim


def _aims(dataset: Dataset) -> Iterator[Aim]:
    """What runs worked for, the last one first; without those of before that was recorded."""
    for run_id in reversed(run_ids(dataset)):
        if (aim := run_aim(dataset, run_id)).columns:
            yield aim


def _last_aim(dataset: Dataset, aim: Aim) -> Aim | None:
    """What a retry is to be recorded as: of single stages as the run that it repeats."""
    if aim.view or not aim.columns:
        return aim if aim.columns else None
    return next(_aims(dataset), aim)


def _is_shown(dataset: Dataset, aim: Aim) -> bool:
    """Whether the view that is worked for shows the columns; a run may have died before it was written."""
    if not aim.view:
        return True
    with contextlib.suppress(UsageError):
        found = View.load(dataset, aim.view).columns
        return all(found.get(name) == column for name, column in aim.columns.items())
    return False


def _without_inputs(dataset: Dataset, stages: list[Stage], wanted: dict[str, set[int]]) -> int:
    """Leave out what reads what is neither there nor wanted; returns how much that is."""
    makers, count = {stage.column: stage.name for stage in stages}, 0
    for stage in stages:
        for need in stage.needs:
            able = set(dataset.committed_shards(need)) | wanted.get(makers.get(need, ""), set())
            count += len(wanted[stage.name] - able)
            wanted[stage.name] &= able
    return count


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


def _left_to_the_view(dataset: Dataset, stages: Collection[Stage]) -> int:
    """Shard columns of the default view with failures, or that read such ones, of other stages than these."""
    own = {stage.column for stage in stages}
    try:
        others, _ = stages_of_run(dataset, View.load(dataset).columns.values())
    except UsageError:  # there is no view, or nobody knows how its columns were made
        return 0
    theirs = {stage.name for stage in others if stage.column not in own}
    return sum(len(theirs.intersection(names)) for names in shards_to_retry(dataset, others).values())


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
    not asked for again. After runs of single stages (`--only`) all columns that these made are meant.

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
        by_hand = sum(row["status"] == "failed" for row in latest.values()) - len(sources)
        if not aim.view and sources and (views := View.names(dataset)):  # new clips need all stages
            view = "default" if "default" in views else views[0]
            cli.say(f"retry: {len(sources)} sources that failed are left to `rushes retry --view {view}`")
            sources = []
        forced = shards_to_retry(dataset, stages)
        if not aim.view and (count := _left_to_the_view(dataset, stages)):
            cli.say(f"retry: {count} shard columns of the view are left to `rushes retry --view default`")
        known = set(planned.shards(dataset))
        wanted = self._missing(dataset, aim, stages, known)
        for shard, names in forced.items():
            for name in names:
                wanted[name].add(shard)
        if left := _without_inputs(dataset, stages, wanted):
            cli.say(f"retry: {left} shard columns lack what they read, and are left for later")
        forced = {shard: [name for name in names if shard in wanted[name]] for shard, names in forced.items()}
        num_forced = sum(len(names) for names in forced.values())
        num_all = sum(len(shards) for shards in wanted.values())
        counts = {"sources": len(sources), "shard columns": num_forced, "not made yet": num_all - num_forced}
        if not self.json:
            cli.print_table("to retry", list(counts), [list(counts.values())])
        if self.dry_run or (not sources and not num_all and _is_shown(dataset, aim)):
            code = cli.FAILED_ITEMS if by_hand and not self.dry_run else cli.DONE
            if by_hand:
                cli.say(f"retry: {by_hand} sources fail until a file or a list is mended and given anew")
            if self.json:
                cli.print_json({"to_retry": counts, "exit_code": code})
            return code
        if wanted.get("caption"):
            _refuse_masked(config, aim.view)
        interrupt_on_signals()
        with Lease(dataset), session() as where:
            if sources:
                found = listed_again(sources)
                opened = sorted({row["uri"] for row in sources} - {item.uri for item in found})
                plan_generation(dataset, found, config.plan, retries_failed=True, opened=opened)
                new = set(planned.shards(dataset)) - known
                wanted = {name: shards | new for name, shards in wanted.items()}
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
                aim=_last_aim(dataset, aim),
                wanted=wanted,
            )
        if not is_there and aim.view and code in {cli.DONE, cli.FAILED_ITEMS}:
            View(columns=dict(aim.columns), where=aim.where).save(dataset, aim.view)
        return code

    def _missing(
        self, dataset: Dataset, aim: Aim, stages: list[Stage], shards: set[int]
    ) -> dict[str, set[int]]:
        """By stage the shards that lack its column; of single stages, those of the last run alone."""
        found = lacking(dataset, stages, shards)
        if aim.view:
            return found
        last = next((aim.columns for aim in _aims(dataset)), aim.columns)
        return {stage.name: found[stage.name] if stage.column in last.values() else set() for stage in stages}


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
