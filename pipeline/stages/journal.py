"""The journal of a shard in work: what was in hand when a process died, so that it is known afterwards.

A death is evidence against the items that were in hand at that moment, and against nothing else: not against
those that were done, not where the machine itself was lost. Several items at once (a batch) are suspects
after a death and are tried one by one; one that was in hand at two deaths is poison and passed over. A
process that dies with nothing in hand, again and again, ends the shard.
"""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from manifests.cli import say
from manifests.errors import RushesError
from manifests.layout import Column, Dataset
from manifests.store import storage
from media.apart.pool import pids

MAX_DEATHS = 2
"""Deaths with the same item in hand."""
MAX_IDLE_DEATHS = 3
"""Deaths with nothing in hand, of one shard."""
_LIMIT_EXIT = 70
_WATCH_EVERY_S = 0.5


def resident_bytes() -> int:
    """Memory this process and its decoders hold now."""
    found = 0
    for process in ("self", *pids()):
        try:
            with open(f"/proc/{process}/statm") as file:
                found += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # it ended just now, or there is no /proc: the most it ever held
            found += resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 * (process == "self")
    return found


@dataclass(frozen=True)
class Node:
    """The machine this runs on, and how one learns whether another is still there."""

    name: str = ""
    is_gone: Callable[[str], bool] = lambda _: False


class Journal:
    """Records, beside the dataset, which items are being worked on.

    `death` says what became of the process before this one, if it died in this shard; else it is empty.

    Raises:
        RushesError: this shard's process has died `MAX_IDLE_DEATHS` times with nothing in hand.
    """

    def __init__(
        self, dataset: Dataset, run_id: str, column: Column, shard: int, node: Node | None = None
    ) -> None:
        self._filesystem, node = dataset.filesystem, node or Node()
        self._path = dataset.path("runs", run_id, "journal", str(column), f"{shard:06d}.json")
        self._state: dict[str, Any] = {"deaths": {}, "why": {}, "idle_deaths": 0}
        self._changes, self._stored = 0, -1  # the number of changes, and how many of them are stored
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self.death = ""
        if storage.exists(self._filesystem, self._path):
            self._state = json.loads(storage.read_bytes(self._filesystem, self._path))
            self.death = self._note_death(node)
        self._state |= {"in_hand": [], "node": node.name}
        self._write()
        if self._state["idle_deaths"] >= MAX_IDLE_DEATHS:
            raise RushesError(
                f"{column} shard {shard}",
                f"its process died {self._state['idle_deaths']} times between items",
                "Look for memory and for the node's own log; then run the same command again.",
            )

    def _note_death(self, node: Node) -> str:
        state, in_hand = self._state, list(dict.fromkeys(self._state["in_hand"]))  # one may be held twice
        if node.is_gone(state["node"]):
            return f"its node was lost, with {_few(in_hand)} in hand; nothing is held against them"
        if not in_hand:
            state["idle_deaths"] += 1
            return f"its process died with nothing in hand, {state['idle_deaths']} of {MAX_IDLE_DEATHS} times"
        for item in in_hand:
            state["deaths"][item] = state["deaths"].get(item, 0) + 1
            state["why"].setdefault(item, "its process died")
        return f"{state['why'][in_hand[0]]}, with {_few(in_hand)} in hand"

    def _write(self) -> None:
        with self._lock:
            data, changes = json.dumps(self._state).encode(), self._changes
        if storage.is_local(self._filesystem):  # no fsync: this must outlive the process, not the machine
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with storage.beside(self._path) as temporary:
                temporary.write_bytes(data)
                os.replace(temporary, self._path)
        else:
            storage.write_bytes(self._filesystem, self._path, data)
        self._stored = changes

    def poison(self, item: str) -> str | None:
        """Why the item must be passed over, or None if it may be tried."""
        deaths = self._state["deaths"].get(item, 0)
        return f"{self._state['why'][item]}, {deaths} times" if deaths >= MAX_DEATHS else None

    def is_suspect(self, item: str) -> bool:
        """Whether the item was in hand at a death, and must be tried alone."""
        return item in self._state["deaths"]

    @contextmanager
    def item(self, *items: str, limit_s: float, limit_bytes: int = 1 << 62) -> Iterator[Callable[[], None]]:
        """Hold items in hand, from any thread; those that are held already stay so.

        The process ends itself, and the restart counts a death, where `limit_s` pass without a sign of
        progress, or memory goes over `limit_bytes`.

        Yields:
            What to call at each sign of progress, as often as one likes; never called, the limit holds for
            the whole item.
        """
        self._take(items)
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
                self._end(items, why)

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield beat
        except ChildProcessError as error:  # as if it had been this process: whose fault it is must be seen
            self._end(items, str(error))
        except Exception:  # of one item, which is nobody's death
            self._give_back(items)
            raise
        else:
            self._give_back(items)
        finally:
            is_done.set()

    def _end(self, items: tuple[str, ...], why: str) -> None:
        """End this process, and say of which items."""
        self._state["why"] |= dict.fromkeys(items, why)
        self._write()
        say(f"{_few(list(items))}: {why}")
        os._exit(_LIMIT_EXIT)

    def _take(self, items: tuple[str, ...]) -> None:
        with self._lock:
            self._state["in_hand"] = [*self._state["in_hand"], *items]
            self._changes = change = self._changes + 1
        self._keep(change)

    def _give_back(self, items: tuple[str, ...]) -> None:
        """On an object store this is written with what comes next: a request an item is enough."""
        with self._lock:
            left = list(self._state["in_hand"])
            for item in items:
                left.remove(item)
            self._state["in_hand"] = left
            self._changes = change = self._changes + 1
        if storage.is_local(self._filesystem):
            self._keep(change)

    def _keep(self, change: int) -> None:
        """Store a change, unless another thread has stored it with its own meanwhile."""
        with self._writing:
            if self._stored < change:
                self._write()

    def rest(self) -> None:
        """Nothing is in hand: what comes now is the commit, and no item's fault."""
        if self._state["in_hand"] or self._stored < self._changes:
            self._state["in_hand"] = []
            self._write()

    def close(self) -> None:
        if storage.exists(self._filesystem, self._path):
            self._filesystem.delete_file(self._path)


def _few(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "") or "nothing"
