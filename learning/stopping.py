"""Graceful shutdown: a signal sets a flag that is checked between steps.

Every process then stops after the same step.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from manifests import cli

HURRY_S = 2.0
"""A second Ctrl-C interrupts at once only after this long: a launcher may forward the first one again."""

_requested: list[str] = []


class Interrupted(Exception):  # noqa: N818 - a requested stop, not an error
    """The run was asked to stop, by the signal it names, and has saved itself."""

    @property
    def code(self) -> int:
        """What the command ends with: a stop that a batch system asks for is no failure."""
        return cli.INTERRUPTED if str(self) == signal.SIGINT.name else cli.DONE


def ask_to_stop(name: str) -> None:
    """Do what the signal `name` would do, in a worker whose launcher received it."""
    _requested.append(name)


class Stop:
    """Whether the run is to stop, and for what signal."""

    def __init__(self) -> None:
        self.caught, self.caught_s = "", 0.0

    @property
    def signal_name(self) -> str:
        return self.caught or (_requested[0] if _requested else "")


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into a request to stop, checked between steps.

    A second Ctrl-C some seconds later interrupts at once; SIGTERM never does, for torchrun and batch systems
    send several.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        try:
            yield stop
        finally:
            _requested.clear()
        return

    def request_stop(number: int, _frame: object) -> None:
        now = time.monotonic()
        if not stop.caught:
            stop.caught, stop.caught_s = signal.Signals(number).name, now
        elif number == signal.SIGINT and now - stop.caught_s > HURRY_S:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        _requested.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["Interrupted", "Stop", "ask_to_stop", "stop_on_signals"]
