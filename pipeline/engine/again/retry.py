"""`retry` does failed work again, and what was made from it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

import tyro

from manifests import cli
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.runs.events import Aim
from manifests.signals import interrupt_on_signals
from manifests.tables import planned, scans
from manifests.text import shown
from manifests.views import View
from manifests.writing.lease import Lease
from pipeline.config import IngestConfig
from pipeline.engine.again.aims import aim_of, aims, is_shown, recorded_aim, stages_of_run
from pipeline.engine.cluster import session
from pipeline.engine.outdated import lacking, shards_to_retry, take_back
from pipeline.engine.run import execute, plan_generation
from pipeline.footage.sources import listed_again
from pipeline.stages.protocol import Stage

_ONLY_BY_HAND = ("name_not_utf8", "no_name")
"""What fails again until a file or a list is mended and given anew."""


def _without_inputs(dataset: Dataset, stages: list[Stage], wanted: dict[str, set[int]]) -> int:
    """Leave out what reads what is neither there nor wanted; returns how much that is."""
    makers, count = {stage.column: stage.name for stage in stages}, 0
    for stage in stages:
        for need in stage.needs:
            able = set(dataset.committed_shards(need)) | wanted.get(makers.get(need, ""), set())
            count += len(wanted[stage.name] - able)
            wanted[stage.name] &= able
    return count


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
    not asked for again. After runs of single stages (`--only`) all columns that these made are meant. It ends
    with 3 where sources fail that only a hand can mend.

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
        if self.dry_run or (not sources and not num_all and is_shown(dataset, aim)):
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
                aim=recorded_aim(dataset, aim),
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
        last = next((aim.columns for aim in aims(dataset)), aim.columns)
        return {stage.name: found[stage.name] if stage.column in last.values() else set() for stage in stages}
