"""The watcher: it writes what actors tell into the run's log, and shows how far each stage is."""

from __future__ import annotations

import threading
import time
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from manifests import cli
from manifests.cli import say
from manifests.errors import RushesError
from manifests.runs.events import HEARTBEAT, EventLog
from manifests.runs.pace import MEASURING, Pace, told_range
from manifests.writing.commit import Account
from pipeline.engine.gauges import Gauges

_POLL_S = 0.5
_BEAT_EVERY_S, _SHOWN_EVERY_S = 10.0, 2.0
_QUIET = {"job_started", "skipped", "progress", "committed"}
"""Told by the bars of a terminal."""


class Watcher(threading.Thread):
    """Collects events from the hub, writes them to the run's log and shows them, until stopped.

    On a terminal each stage has a bar; else each event is a line, with the time left.

    Args:
        footage: seconds of each shard.
        jobs: stages and shards that are to be made.
    """

    def __init__(
        self, hub: Any, log: EventLog, footage: dict[int, float], jobs: set[tuple[str, int]]
    ) -> None:
        super().__init__(daemon=True)
        self.hub, self.log, self.footage, self.jobs = hub, log, footage, jobs
        self.accounts: dict[str, Account] = {}
        self._halt = threading.Event()
        self._beat_s, self._shown_s, self._is_told = time.monotonic(), 0.0, False
        self._gauges = Gauges(log.run_id)
        console = cli.terminal()
        self._bars = Bars(_progress(console)) if console else None

    def collect(self) -> None:
        for event in ray.get(self.hub.drain.remote()):
            if event["event"] in ("committed", "skipped"):
                event["footage_s"] = round(self.footage.get(event["shard"], 0.0), 3)
            if event["event"] == "skipped":
                event["was_to_do"] = (event["stage"], event["shard"]) in self.jobs
            if event["event"] == "committed":
                self._count(event)
            self.write(event)
            if self._bars is None or event["event"] not in _QUIET:
                self._say(event)
        now = self.pace()
        if self._bars is not None:
            self._bars.show(now)
        if time.monotonic() - self._shown_s > _SHOWN_EVERY_S:
            self._shown_s = time.monotonic()
            self._gauges.show(now)
        if time.monotonic() - self._beat_s > _BEAT_EVERY_S:
            self._beat_s = time.monotonic()
            stages = {
                stage.stage: {"done": stage.done, "running": len(stage.running), "queued": stage.left}
                for stage in now.stages
            }
            text = f"{now.done} of {now.jobs} done"
            self.write(
                {"event": HEARTBEAT, "text": text, "done": now.done, "jobs": now.jobs, "stages": stages}
            )
        self.write(None)

    def write(self, event: dict[str, Any] | None, is_last: bool = False) -> None:
        """Log an event, or what is still to be written; a log that cannot be written ends no run.

        Nothing depends on events: what is committed is known by its records.
        """
        try:
            if event is not None:
                self.log.write(**event)
            self.log.flush(is_last)
        except (OSError, RushesError) as error:
            if not self._is_told:
                self._is_told = True
                say(f"  the run's log cannot be written, the run goes on: {error}")

    def pace(self) -> Pace:
        return self.log.meter.at(time.time())

    def _count(self, event: dict[str, Any]) -> None:
        account = Account(event["num_in"], event["num_kept"], event["num_dropped"], event["num_failed"])
        self.accounts[event["stage"]] = self.accounts.get(event["stage"], Account(0, 0, 0, 0)) + account

    def _say(self, event: dict[str, Any]) -> None:
        if event["event"] == "committed":
            now = self.pace()
            left = told_range(now.left_s)
            left = f"; {left} left" if left else "; time left: measuring" if now.state == MEASURING else ""
            place = f"[{now.done}/{now.jobs}] {event['stage']} shard {event['shard']}"
            say(f"{place}: {event['text']}{left}")
        elif event["event"] not in ("job_started", "skipped"):
            place = "" if event["shard"] is None else f" shard {event['shard']}"
            say(f"  {event['stage']}{place}: {event['event']}: {event['text']}")

    def run(self) -> None:
        if self._bars is not None:
            self._bars.progress.start()
        while not self._halt.wait(_POLL_S):
            try:
                self.collect()
            except ray.exceptions.RayError:
                return  # the hub or the cluster is gone; the driver's own call reports it

    def stop(self) -> None:
        self._halt.set()
        self.join()
        try:
            self.collect()
            self._gauges.show(self.pace())
            self.write(None, is_last=True)
        finally:
            if self._bars is not None:
                self._bars.progress.stop()


BARS = (
    TextColumn("{task.description:10}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("{task.fields[told]}"),
)


def _progress(console: Console) -> Progress:
    """Bars that leave the streams of this process as they are: Ray writes to them too."""
    return Progress(*BARS, console=console, redirect_stdout=False, redirect_stderr=False)


class Bars:
    """A bar for each stage, and one line for the whole."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, now: Pace) -> None:
        for stage in now.stages:
            told = f"{stage.kept} kept, {stage.dropped} dropped, {stage.lost} failed"
            told += f"; {len(stage.running)} in work"
            if stage.failed:
                told += f"; {stage.failed} shards without it"
            self._bar(stage.stage, stage.done, stage.jobs, told)
        left = told_range(now.left_s)
        self._bar("all", now.done, now.jobs, f"{left} left" if left else now.state)

    def _bar(self, name: str, done: int, total: int, told: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self.progress.add_task(name, total=total, told=told)
        self.progress.update(self._tasks[name], completed=done, total=total, told=told)
