"""Beginning and ending a run well: one at a time in a folder; SIGINT and SIGTERM become a wish, looked at between steps, and every process stops after the same step."""

from __future__ import annotations

import fcntl
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manifests.errors import UsageError

PATIENCE_S = 60.0


class RunLock:
    """Held by the run in a folder and let go by its death, however it dies; what is left of a killed one is waited for.

    Raises:
        UsageError: another run is still there.
    """

    def __init__(self, out: Path, patience_s: float = PATIENCE_S) -> None:
        self._file = open(out / ".lock", "w")  # noqa: SIM115 - held until released
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise UsageError(str(out), "is in use by another run", "Wait for it, stop it, or give another --out.") from error
                time.sleep(0.2)

    def release(self) -> None:
        self._file.close()


class Interrupted(Exception):  # noqa: N818 - a wish, not an error
    """The run was asked to stop and has saved itself."""


class Stop:
    """Set by SIGINT or SIGTERM."""

    signal_name = ""


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into a wish to stop; the second one interrupts at once. In a thread that may not catch signals, nothing is caught."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def wish(number: int, _frame: object) -> None:
        if stop.signal_name:
            raise KeyboardInterrupt
        stop.signal_name = signal.Signals(number).name

    before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
