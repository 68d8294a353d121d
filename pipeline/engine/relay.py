"""What workers of a Ray job tell the process that launched them, and what it tells them: an actor between."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

from manifests.errors import UsageError

POLL_S = 0.5
_MOST_LINES = 10_000
"""That wait to be printed; of more the oldest are let go."""


class Bulletin:
    """An actor with the signal by which a run is asked to stop, its lines, and what was wrong with it.

    Attributes:
        signal_name: empty: it goes on.
        refused: subject, cause and next step of an error of usage; empty: none.
    """

    def __init__(self) -> None:
        self.signal_name = ""
        self.refused: tuple[str, ...] = ()
        self._lines: list[tuple[str, str]] = []

    def stop(self, signal_name: str) -> None:
        """Ask the run to stop."""
        self.signal_name = signal_name

    def refuse(self, parts: tuple[str, ...]) -> None:
        """The command makes no sense, however often it is tried."""
        self.refused = self.refused or parts

    def state(self) -> tuple[str, tuple[str, ...]]:
        """(signal, refusal)."""
        return self.signal_name, self.refused

    def tell(self, lines: list[tuple[str, str]]) -> None:
        """Lines of the run: (`out` or `err`, text)."""
        self._lines = (self._lines + lines)[-_MOST_LINES:]

    def take(self) -> list[tuple[str, str]]:
        """The lines that nobody has taken yet."""
        lines, self._lines = self._lines, []
        return lines


class _Tee(io.TextIOBase):
    """Writes to a stream, and keeps whole lines."""

    def __init__(self, name: str, under: TextIO, lines: list[tuple[str, str]]) -> None:
        self._name, self._under, self._lines, self._rest = name, under, lines, ""

    def write(self, text: str) -> int:
        self._under.write(text)
        *whole, self._rest = (self._rest + text).split("\n")
        self._lines += [(self._name, line) for line in whole]
        return len(text)

    def flush(self) -> None:
        self._under.flush()


@contextlib.contextmanager
def relayed(bulletin: Any) -> Iterator[None]:
    """What is printed inside the `with` block is told to the bulletin as well."""
    import ray

    lines, is_over = list[tuple[str, str]](), threading.Event()

    def pass_on() -> None:
        done = False
        while not done:
            done = is_over.wait(POLL_S)
            now = [lines.pop(0) for _ in range(len(lines))]
            if now:
                ray.get(bulletin.tell.remote(now))

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    tees = _Tee("out", sys.stdout, lines), _Tee("err", sys.stderr, lines)
    try:
        with contextlib.redirect_stdout(tees[0]), contextlib.redirect_stderr(tees[1]):  # type: ignore[type-var]
            yield
    finally:
        is_over.set()
        thread.join()


def print_told(bulletin: Any) -> None:
    """Print what the run has told since the last time."""
    import ray

    for name, line in ray.get(bulletin.take.remote()):
        print(line, file=sys.stdout if name == "out" else sys.stderr, flush=True)


def check_refused(bulletin: Any) -> None:
    """Raise what the command was refused for.

    Raises:
        UsageError: by that.
    """
    import ray

    if parts := ray.get(bulletin.state.remote())[1]:
        raise UsageError(*parts)
