"""Ctrl-C and SIGTERM as exceptions, at a moment when the program can take them.

In the midst of an import it cannot: torch's C++ ends the process where a Python exception comes back to it,
and Python itself, hit while it makes a dataclass, ends by the signal although the exception was handled. So
what comes while a module is imported waits for the end of the import.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM)
_LATER_S, _MOST_S = 0.05, 30.0
_IMPORTS = "<frozen importlib._bootstrap>"
_put_off: set[int] = set()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTS:
            return True
        frame = frame.f_back
    return False


def _again(number: int) -> None:
    time.sleep(_LATER_S)
    os.kill(os.getpid(), number)


def raising(error: Callable[[int], BaseException]) -> Callable[[int, FrameType | None], None]:
    """A handler of signals that raises an error of its own for the number, once nothing is being imported."""
    first_s = 0.0

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        now_s = time.monotonic()
        first_s = first_s or now_s
        if _is_importing(frame) and now_s - first_s < _MOST_S:
            _put_off.add(number)
            _thread.start_new_thread(_again, (number,))  # `threading` takes locks that may be held right here
            return
        first_s = 0.0
        _put_off.discard(number)
        raise error(number)

    return handler


def _unheard(before: Callable[[Any], object]) -> Callable[[Any], object]:
    """A hook for exceptions that Python has to ignore, as in a callback of a fork: a signal is sent again."""

    def hook(told: Any) -> None:
        if told.exc_type is KeyboardInterrupt:
            _thread.start_new_thread(_again, (signal.SIGINT,))
        elif told.exc_type is SystemExit and told.exc_value.code == signal.SIGTERM:
            _thread.start_new_thread(_again, (signal.SIGTERM,))
        else:
            before(told)

    return hook


def send_put_off() -> None:
    """Send what was put off once more, where it may have come while signals were not heeded."""
    for number in tuple(_put_off):
        _put_off.discard(number)
        os.kill(os.getpid(), number)


def interrupted(number: int) -> BaseException:
    return KeyboardInterrupt()


def ended(number: int) -> BaseException:
    return SystemExit(number)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """SIGTERM leaves what is under way as Ctrl-C does, so that half a file is put away.

    It is raised as `SystemExit` of its number.

    Handlers that others have set stay. After an error ours stay too: what follows says what went wrong, and
    ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    usual_hook, sys.unraisablehook = sys.unraisablehook, _unheard(sys.unraisablehook)
    mine = {number for number in usual if signal.getsignal(number) == usual[number]}
    for number in mine:
        signal.signal(number, raising(interrupted if number == signal.SIGINT else ended))
    yield
    sys.unraisablehook = usual_hook
    for number in mine:
        signal.signal(number, usual[number])


def interrupt_on_signals() -> None:
    """SIGTERM ends a run as Ctrl-C does, even where a background shell ignores Ctrl-C."""
    for number in NUMBERS:
        signal.signal(number, raising(interrupted))
