"""Probing many files on Ray: each file is answered for, and none is blamed for what is not its fault.

A file is blamed when its own probe, alone in a task, ends the process or passes its limit, twice. A machine
that was lost, or a cluster with no CPU to spare, is nobody's fault: the file waits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, RayError, RaySystemError, RayTaskError

from manifests.cli import say
from manifests.errors import RushesError
from media.bytes.sealed import secret_if_there, use_secret

LIMIT_S = 300.0
"""Of one file's probe."""
_LIMIT_EXIT = 70
_TELL_EVERY_S = 60.0
_DEATHS, _LOSSES = 2, 5
_NOBODYS_FAULT = (NodeDiedError, ObjectLostError, RaySystemError)

Probed = Callable[[Any], dict]
Failed = Callable[[Any, str, str], dict]


def probe_on_ray(
    source_row: Probed,
    failed_row: Failed,
    limit_s: float = LIMIT_S,
    keep: Callable[[list[Any], list[dict]], None] = lambda files, rows: None,
) -> Callable[[list[Any]], list[dict]]:
    """What probes files in parallel as Ray tasks, a handful of files each.

    Args:
        source_row: the row of one file.
        failed_row: the row of a file that cannot be probed, with reason and cause.
        limit_s: seconds that one file may take, once it is in work.
        keep: told of files and their rows as they come, so that a run which dies can go on from there.
    """

    secret = secret_if_there()

    @ray.remote(num_cpus=1, max_retries=0)
    def probe_some(files: list[Any]) -> list[dict]:
        use_secret(secret)
        return [_within(limit_s, source_row, file) for file in files]

    def alone(file: Any) -> dict:
        deaths = losses = 0
        while True:
            try:
                [row] = ray.get(probe_some.remote([file]))
                return dict(row)
            except RayTaskError as error:  # of the machine or the settings: no file's fault
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except _NOBODYS_FAULT as error:
                losses += 1
                if losses >= _LOSSES:
                    raise RushesError(
                        "plan",
                        f"machines of the cluster were lost {losses} times while a file was probed",
                        "Mend the cluster and run the same command again.",
                    ) from error
            except RayError as error:
                deaths += 1
                if deaths >= _DEATHS:
                    cause = f"its probe took over {limit_s:g} s or ended the process, {deaths} times"
                    return failed_row(file, "poison", f"{cause} ({type(error).__name__})")

    def probing(files: list[Any]) -> list[dict]:
        size = max(1, min(64, len(files) // 8))
        running = {
            probe_some.remote(files[begin : begin + size]): files[begin : begin + size]
            for begin in range(0, len(files), size)
        }
        rows: list[dict] = []
        suspects: list[Any] = []
        while running:
            ready, _ = ray.wait(list(running), num_returns=1, timeout=_TELL_EVERY_S)
            if not ready:
                free = ray.available_resources().get("CPU", 0.0)
                left = sum(len(piece) for piece in running.values())
                say(f"plan: {left} files to probe; {free:g} CPUs of the cluster are free")
            for task in ready:
                piece = running.pop(task)
                try:
                    found = ray.get(task)
                    keep(piece, found)
                    rows += found
                except RayError:
                    suspects += piece
        return rows + [alone(file) for file in suspects]

    return probing


def _within(limit_s: float, source_row: Probed, file: Any) -> dict:
    """The row of a file; the process ends where it takes longer."""
    watch = threading.Timer(limit_s, os._exit, (_LIMIT_EXIT,))
    watch.daemon = True
    watch.start()
    try:
        return source_row(file)
    finally:
        watch.cancel()
