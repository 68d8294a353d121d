"""Ending a run well: SIGINT and SIGTERM become a wish, looked at between steps; every process then stops after the same step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
