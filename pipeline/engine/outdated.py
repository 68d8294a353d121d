"""Shard columns that are to be made again: they had failures, or what they read holds more than it did.

A commit's account says how many items it read, and that of the column it reads how many there are now: where
these are more, as after a retry of that column alone, the commit is of before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from manifests.layout import Column, Dataset
from manifests.tables import scans
from manifests.writing.withdrawn import withdraw
from pipeline.stages.protocol import Stage

Forced = dict[int, list[str]]
"""By shard the stages whose columns are to be made again."""


def shards_to_retry(dataset: Dataset, stages: Sequence[Stage]) -> Forced:
    """Those with failures, those that read such ones, and those that are outdated."""
    return _forced(dataset, stages, with_failures=True)


def outdated(dataset: Dataset, stages: Sequence[Stage]) -> Forced:
    """Those of before what they read was made again, and those that read these."""
    return _forced(dataset, stages, with_failures=False)


def _forced(dataset: Dataset, stages: Sequence[Stage], with_failures: bool) -> Forced:
    forced: Forced = defaultdict(list)
    changed: dict[int, set[Column]] = defaultdict(set)
    kept: dict[Column, Mapping[int, int]] = {}
    for stage in stages:
        column = stage.needs[0] if stage.needs else None  # of its items it makes one each
        if column is not None and column not in kept:
            kept[column] = _numbers(dataset, column, "num_kept")
        there = kept.get(column, {}) if column is not None else {}
        failed = _numbers(dataset, stage.column, "num_failed") if with_failures else {}
        for shard, count in _numbers(dataset, stage.column, "num_in").items():
            is_old = count < there.get(shard, 0)
            if is_old or failed.get(shard) or changed[shard] & set(stage.needs):
                forced[shard].append(stage.name)
                changed[shard].add(stage.column)
    return dict(forced)


def _numbers(dataset: Dataset, column: Column, name: str) -> dict[int, int]:
    """A number of each shard's account."""
    found = scans.table(dataset, "shards", column, ["shard", name])
    return dict(zip(found["shard"].to_pylist(), found[name].to_pylist(), strict=True))


def take_back(dataset: Dataset, stages: Sequence[Stage], forced: Forced) -> None:
    """Take commits back, those of columns that read others first.

    So at no moment is a column there whose input is not.
    """
    for stage in reversed(stages):
        shards = sorted(shard for shard, names in forced.items() if stage.name in names)
        withdraw(dataset, stage.column, shards)


def lacking(dataset: Dataset, stages: Sequence[Stage], shards: Collection[int]) -> dict[str, set[int]]:
    """By stage the shards that lack its column."""
    return {stage.name: set(shards) - set(dataset.committed_shards(stage.column)) for stage in stages}


__all__ = ["Forced", "lacking", "outdated", "shards_to_retry", "take_back"]
