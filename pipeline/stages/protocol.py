"""Stages: functions from (shard, inputs) to a committed column.

A stage is built on the driver from its configuration, shipped to actors, `setup` once there and then
`process`ed once per shard. It must be safe to run again: it commits at the end or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from manifests.layout import Column, Dataset
from manifests.writing.commit import Account, SupersededError
from pipeline.stages.journal import Journal, Node


class Stage(Protocol):
    """One column's maker."""

    name: str
    column: Column
    needs: tuple[Column, ...]

    def setup(self) -> None:
        """Load what is needed once per process."""

    def process(
        self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]
    ) -> Account:
        """Make and commit the column of one shard."""


def run_stage(
    stage: Stage,
    dataset: Dataset,
    run_id: str,
    shard: int,
    generation: int,
    progress: Callable[[str], None],
    is_forced: bool = False,
    node: Node | None = None,
    on_death: Callable[[str], None] = lambda _: None,
) -> tuple[Account | None, float]:
    """Process one shard unless it is committed already, or all the same.

    Returns its account (None if it was there, or another writer was first) and the seconds it took.

    Args:
        progress: told how far it is.
        node: the machine this runs on.
        on_death: told of the death of the process that had this shard before.
    """
    if not is_forced and dataset.is_committed(stage.column, shard):
        return None, 0.0
    begin = time.monotonic()
    journal = Journal(dataset, run_id, stage.column, shard, node)
    if journal.death:
        on_death(journal.death)
    account: Account | None
    try:
        account = stage.process(dataset, shard, generation, journal, progress)
    except SupersededError:
        account = None
    journal.close()
    return account, time.monotonic() - begin
