"""One tailer of a dataset's newest run: every page and every listener is told from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from dashboard.index.patience import Patience
from manifests.layout import Dataset
from manifests.runs.events import HEARTBEAT, PIECE_BYTES, piece_path, run_ids
from manifests.runs.pace import Meter, Pace
from manifests.store import storage
from manifests.writing.lease import Holder, is_abandoned, working

MOST_LISTENERS, _FULL_MS = 32, 60_000
_EVERY_S = 0.5
_LOCAL_LOOK_S, _REMOTE_LOOK_S = 0.5, 10.0
_RUNS_EVERY = 4
"""A newer run is looked for so many times more seldom than its events."""
_KEPT_EVENTS = 200
_TROUBLE = ("failed", "shard_failed", "died", "error")


class Tail:
    """Follows the newest run of a dataset.

    Attributes:
        run_id: of the newest run; empty where there is none.
        offset: bytes of its events that have been read.
        writer: who holds the dataset's lease; None where nobody does.
        recent, trouble: its last events, and those of them that tell of something wrong.
    """

    def __init__(self, dataset: Dataset, store: Patience | None = None) -> None:
        self.dataset, self._store = dataset, store or Patience(dataset)
        self.run_id, self.offset = "", 0
        self.writer: Holder | None = None
        self.recent: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)
        self.trouble: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)
        self.running: dict[tuple[str, int], float] = {}
        """Stage and shard of jobs in work, and when each began [unix time]."""
        self._meter = Meter()
        is_local = storage.is_local(dataset.filesystem)
        self._is_local, self._look_s = is_local, _LOCAL_LOOK_S if is_local else _REMOTE_LOOK_S
        self._looked_at_s, self._next_runs_s, self._size = -1e9, -1e9, -1
        self._piece, self._at = 0, 0  # of the events, and how far it was read
        self._looking, self._lock = threading.Lock(), threading.Lock()
        self.listeners = 0

    def look(self) -> None:
        """Read what has been written since; at most so often as the store allows."""
        with self._looking:
            if time.monotonic() - self._looked_at_s < self._look_s:
                return
            self._looked_at_s = time.monotonic()
            with contextlib.suppress(OSError):  # of a store that does not answer now: what is known is shown
                self._store.ask(self._follow, "events")

    def _follow(self) -> None:
        """Go to the newest run, and read on in it."""
        if time.monotonic() >= self._next_runs_s:
            self._next_runs_s = time.monotonic() + _RUNS_EVERY * self._look_s
            runs = run_ids(self.dataset)
            if runs and runs[-1] != self.run_id:
                self._begin(runs[-1])
            self.writer = working(self.dataset)
        while self.run_id and self._read():
            pass

    def _begin(self, run_id: str) -> None:
        with self._lock:
            self.run_id, self.offset, self._meter, self._size = run_id, 0, Meter(), -1
            self._piece, self._at = 0, 0
            self.recent.clear()
            self.trouble.clear()
            self.running.clear()

    def _read(self) -> bool:
        """Whether a piece ended, so that there is more to read."""
        path = piece_path(self.dataset, self.run_id, self._piece)
        info = self.dataset.filesystem.get_file_info(path)
        if not info.is_file or info.size in (self._at, self._size):
            return self._goes_on()
        self._size = info.size
        data = storage.read_range(self.dataset.filesystem, path, self._at, info.size - self._at)
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        self._at += len(whole)
        has_ended = not self._is_local and self._at >= PIECE_BYTES
        if has_ended:
            self._next_piece()
        with self._lock:
            for line in whole.splitlines():
                try:
                    self._take(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    continue  # a damaged line; `rushes status` names it
        return has_ended

    def _goes_on(self) -> bool:
        """Whether there is a next piece, although this one is not full: a takedown makes pieces shorter."""
        following = piece_path(self.dataset, self.run_id, self._piece + 1)
        if self._is_local or not self._at or not storage.exists(self.dataset.filesystem, following):
            return False
        self._next_piece()
        return True

    def _next_piece(self) -> None:
        self._piece, self._at, self._size = self._piece + 1, 0, -1

    def _take(self, event: dict[str, Any]) -> None:
        self._meter.add(event)
        if event["event"] == HEARTBEAT:
            return
        job = (event["stage"], event["shard"])
        if event["event"] == "job_started":
            self.running[job] = event["time_s"]
            return
        if event["event"] in ("committed", "skipped", "shard_failed"):
            self.running.pop(job, None)
        if event["event"] != "skipped":
            self.recent.append(event)
        if event["event"] in _TROUBLE or event["value"].get("num_failed"):
            self.trouble.append(event)

    def pace(self) -> Pace:
        """How the newest run stands; one whose driver died on this machine has no more to say."""
        self.look()
        is_dead = self._is_local and is_abandoned(self.dataset)
        with self._lock:
            return self._meter.at(time.time(), is_dead)

    def jobs(self) -> list[tuple[str, int]]:
        """Stages and shards in work."""
        with self._lock:
            return list(self.running)

    @property
    def place(self) -> str:
        """RUN:OFFSET of what has been read."""
        return f"{self.run_id}:{self.offset}"

    async def changes(self, after: str, told: Callable[[], dict[str, Any]]) -> AsyncIterator[str]:
        """Server-sent events: one where there is something after `after`, one for each change, at 2 Hz.

        Args:
            told: what is sent.
        """
        if self.listeners >= MOST_LISTENERS:  # they asked at once
            yield f"retry: {_FULL_MS}\n\n"
            return
        self.listeners += 1
        last_state, silent_s = "", time.monotonic()
        try:
            while True:
                now = await asyncio.to_thread(self.pace)
                if self.place != after or now.state != last_state:
                    after, last_state, silent_s = self.place, now.state, time.monotonic()
                    data = json.dumps(await asyncio.to_thread(told))
                    yield f"id: {after}\ndata: {data}\n\n"
                elif time.monotonic() - silent_s > 15:
                    silent_s = time.monotonic()
                    yield ": still here\n\n"
                await asyncio.sleep(_EVERY_S)
        finally:
            self.listeners -= 1
