"""Threads that encoders start, kept from taking the machine.

SVT-AV1 as root gives its threads, and for ever the caller's, a priority above everything on the machine;
whatever that process starts inherits it. Two processes that compute like this on two processors stop every
other one, a child of theirs that sleeps for a moment too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def ordinary_threads() -> Iterator[None]:
    """Threads that become real-time ones meanwhile are made ordinary again."""
    before = realtime_threads()
    try:
        yield
    finally:
        for thread in realtime_threads() - before:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def realtime_threads() -> set[int]:
    """This process's threads with a real-time priority; Linux alone tells."""
    threads, found = Path("/proc/self/task"), set()
    for thread in [int(path.name) for path in threads.iterdir()] if threads.is_dir() else []:
        with contextlib.suppress(ProcessLookupError):
            if os.sched_getscheduler(thread) in (os.SCHED_FIFO, os.SCHED_RR):
                found.add(thread)
    return found
