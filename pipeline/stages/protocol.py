"""Stages: functions from (shard, inputs) to a committed column, and what survives a dying process.

A stage is built on the driver from its configuration, shipped to actors, `setup` once there and then
`process`ed once per shard. It must be safe
to run again: it commits at the end or not at all.
"""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from manifests.commit import Account, SupersededError
from manifests.layout import Column, Dataset
from manifests.store import storage

MAX_DEATHS = 2
_LIMIT_EXIT = 70
_WATCH_EVERY_S = 0.5


def resident_bytes() -> int:
    """Memory this process holds now."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no /proc: the most it ever held
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Journal:
    """Records on disk which item is being worked on, so that it is known after a crash.

    An item that was in hand at two deaths of this run is poison: the stage records it as failed and passes
    over it.
    """

    def __init__(self, dataset: Dataset, run_id: str, column: Column, shard: int) -> None:
        self._filesystem = dataset.filesystem
        self._path = dataset.path("runs", run_id, "journal", str(column), f"{shard:06d}.json")
        self._state: dict[str, Any] = {"in_hand": None, "deaths": {}, "why": {}}
        if storage.exists(self._filesystem, self._path):
            self._state = json.loads(storage.read_bytes(self._filesystem, self._path))
            if item := self._state["in_hand"]:
                self._state["deaths"][item] = self._state["deaths"].get(item, 0) + 1
                self._state["why"].setdefault(item, "its process died")

    def _write(self) -> None:
        data = json.dumps(self._state).encode()
        if storage.is_local(self._filesystem):  # no fsync: this must outlive the process, not the machine
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            temporary = storage.temporary_name(self._path)
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, self._path)
        else:
            storage.write_bytes(self._filesystem, self._path, data)

    def poison(self, item: str) -> str | None:
        """Why the item must be passed over, or None if it may be tried."""
        deaths = self._state["deaths"].get(item, 0)
        return f"{self._state['why'][item]}, {deaths} times" if deaths >= MAX_DEATHS else None

    @contextmanager
    def item(self, item: str, limit_s: float, limit_bytes: int = 1 << 62) -> Iterator[Callable[[], None]]:
        """Hold an item in hand.

        The process ends itself, and the restart counts a death, where `limit_s` pass without a sign of
        progress, or memory goes over `limit_bytes`.

        Yields:
            What to call at each sign of progress, as often as one likes; never called, the limit holds for
            the whole item.
        """
        self._state["in_hand"] = item
        self._write()
        is_done, seen_s = threading.Event(), time.monotonic()

        def beat() -> None:
            nonlocal seen_s
            seen_s = time.monotonic()

        def watch() -> None:
            while not is_done.wait(min(_WATCH_EVERY_S, max(0.01, limit_s / 4))):
                if (used := resident_bytes()) > limit_bytes:
                    why = f"memory_limit: the process grew to {used >> 20} MiB, over {limit_bytes >> 20} MiB"
                elif time.monotonic() - seen_s > limit_s:
                    why = f"time_limit: no progress for {limit_s:g} s"
                else:
                    continue
                self._state["why"][item] = why
                self._write()
                os._exit(_LIMIT_EXIT)

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield beat
        finally:
            is_done.set()
        self._state["in_hand"] = None

    def close(self) -> None:
        if storage.exists(self._filesystem, self._path):
            self._filesystem.delete_file(self._path)


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
) -> tuple[Account | None, float]:
    """Process one shard unless it is committed already, or all the same.

    Returns its account (None if it was there, or another writer was first) and the seconds it took.
    """
    if not is_forced and dataset.is_committed(stage.column, shard):
        return None, 0.0
    begin = time.monotonic()
    journal = Journal(dataset, run_id, stage.column, shard)
    account: Account | None
    try:
        account = stage.process(dataset, shard, generation, journal, progress)
    except SupersededError:
        account = None
    journal.close()
    return account, time.monotonic() - begin
