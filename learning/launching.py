"""Running a training as several processes of this machine: `torchrun` with a graceful SIGTERM.

A SIGTERM that ends in a saved run ends with 0, and processes get all the time they need for it.

torchrun's agent always ends a signal in a traceback and in 1, and kills what has not ended after 30 seconds:
a pre-empted job would look like a failed one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NoReturn

OF_THE_LAUNCH = ("--launch", "--workers", "--least-workers", "--gpus")
"""Options that say where a command runs, and not what it does."""
USUAL_WORKERS = 2
POLL_S, PATIENCE_S = 0.1, 20.0


def program() -> list[str]:
    """The beginning of a command line of this program: nothing is imported from the folder one is in."""
    return [sys.executable, "-P", str(Path(__file__).resolve().parents[1] / "rushes.py")]


def run_here(count: int) -> int:
    """Run this very command as `count` processes of this machine; returns its exit code."""
    return run_processes([*program(), *without(sys.argv[1:], OF_THE_LAUNCH)], count)


def become_ray_job(workers: int, gpus: float, least_workers: int = 0) -> NoReturn:
    """Become `rushes launch` of this very command, so that signals to this process reach its workers."""
    options = f"--workers {workers} --least-workers {least_workers} --gpus {gpus}".split()
    verb = without(sys.argv[1:], OF_THE_LAUNCH)
    os.execv(sys.executable, [*program(), "launch", *options, "--", *verb])


def run_processes(command: Sequence[str], count: int) -> int:
    """Run `count` of a command, joined in one process group; SIGINT and SIGTERM are passed on to each.

    Returns:
        0 if all ended well, else the exit code of the first that did not; the others are ended then, for they
        would wait for it for ever.
    """
    where = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    started = [
        # a session each: a Ctrl-C of the terminal must come from here, and once
        subprocess.Popen(
            command,
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            start_new_session=True,
        )
        for rank in range(count)
    ]

    def pass_on(number: int, _frame: object) -> None:
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _wait(started)
    finally:
        for process in started:
            process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(started: list[subprocess.Popen[bytes]]) -> int:
    failed, failed_s = 0, 0.0
    while any(process.poll() is None for process in started):
        bad = next((process.returncode for process in started if process.returncode), 0)
        if bad and not failed:
            failed, failed_s = bad, time.monotonic()
        if failed and time.monotonic() - failed_s > PATIENCE_S:  # they may say why before they are ended
            break
        time.sleep(POLL_S)
    failed = failed or next((process.returncode for process in started if process.returncode), 0)
    return failed if failed >= 0 else 128 - failed


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def without(words: Sequence[str], options: Collection[str]) -> list[str]:
    """Arguments of a command line without some options and their values."""
    rest, kept = iter(words), list[str]()
    for word in rest:
        if word.split("=")[0].replace("_", "-") not in options:  # both spellings are taken
            kept.append(word)
        elif "=" not in word:
            next(rest, None)
    return kept
