"""What a store is asked by pages: they wait for it a moment, and are shown what is known where it is away."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from manifests.layout import Dataset
from manifests.store import storage

PATIENCE_S, AGAIN_S = 3.0, 10.0
"""How long a page waits, and how long after a store was away no page asks it."""
_KEPT_S = 60.0
"""How long an answer that came late is one."""
_MOST_S = 60.0
"""How long one waits for a member of a store that is slow."""
_AWAY = {
    *(errno.EIO, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH),
    *(errno.ENETUNREACH, errno.EPIPE, errno.ESTALE),
}
T = TypeVar("T")


class AwayError(OSError):
    """The store has not answered in time."""


class Patience:
    """Asks the store of a dataset, each question in a thread of its own; a local disk is read at once.

    A store's client tries again for a minute, which is right for a run and too long for a page.

    Attributes:
        problem: what is wrong with the store; empty while it answers.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.problem, self._since_s = "", -1e9
        self._lock = threading.Lock()
        self._owed = set[str]()
        self._late: dict[str, tuple[float, Any]] = {}

    @property
    def is_local(self) -> bool:
        return storage.is_local(self._dataset.filesystem)

    def trouble(self) -> str:
        """What pages say of the store, or of a folder that is gone; empty where all is well."""
        if self.is_local:
            root = self._dataset.root
            return "" if Path(root).is_dir() else f"{root} is not there any more"
        return self.problem and f"{self.problem}; what is shown was known before"

    def ask(self, work: Callable[[], T], key: str = "") -> T:
        """What `work` gives, or gave late to an earlier question of this key.

        Args:
            key: of a question that is asked again and again: who asks it waits a moment, and a late answer is
                kept. Without one it is waited for as long as the store answers others.

        Raises:
            AwayError: there is no answer in time, or an earlier question still waits for its own.
        """
        if self.is_local:
            return work()
        with self._lock:
            come_s, found = self._late.pop(key, (-1e9, None))
            if time.monotonic() - come_s < _KEPT_S:
                return found  # type: ignore[return-value]
            if key in self._owed or (self.problem and time.monotonic() - self._since_s < AGAIN_S):
                raise AwayError(errno.ETIMEDOUT, self.problem or f"{self._dataset.uri} has not answered yet")
            if key:
                self._owed.add(key)
        asked = _Asked(work, lambda asked: self._come(key, asked))
        end_s = time.monotonic() + (0.0 if key else _MOST_S)
        while not asked.is_come.wait(PATIENCE_S) and self._answers_others() and time.monotonic() < end_s:
            continue
        with self._lock:
            if not asked.is_come.is_set():
                asked.is_left = True
                raise AwayError(errno.ETIMEDOUT, self.problem or f"{self._dataset.uri} has not answered yet")
        if asked.error is not None:
            raise asked.error
        return asked.found  # type: ignore[no-any-return]

    def _answers_others(self) -> bool:
        """Whether the store answers a small question, so that it is slow at most."""
        probe = _Asked(lambda: self._dataset.filesystem.get_file_info(self._dataset.path("dataset.json")))
        is_there = probe.is_come.wait(PATIENCE_S) and not _is_away(probe.error)
        with self._lock:
            if is_there:
                self.problem = ""
            else:
                self.problem, self._since_s = f"{self._dataset.uri} does not answer", time.monotonic()
        return is_there

    def _come(self, key: str, asked: _Asked) -> None:
        """Note that a question was answered, and keep what nobody waits for any more."""
        with self._lock:
            self._owed.discard(key)
            if _is_away(asked.error):
                self.problem, self._since_s = f"{self._dataset.uri} cannot be read", time.monotonic()
            else:
                self.problem = ""
            if asked.is_left and key and asked.error is None:
                self._late[key] = time.monotonic(), asked.found
            asked.is_come.set()


class _Asked:
    """A question in a thread of its own."""

    def __init__(self, work: Callable[[], Any], then: Callable[[_Asked], None] | None = None) -> None:
        self.is_come, self.is_left = threading.Event(), False
        self.found: Any = None
        self.error: Exception | None = None
        self._work, self._then = work, then
        try:
            threading.Thread(target=self._answer, daemon=True, name="store").start()
        except RuntimeError:  # there are too many of this process
            self._answer()

    def _answer(self) -> None:
        try:
            self.found = self._work()
        except Exception as error:  # noqa: BLE001 - raised where it was asked
            self.error = error
        if self._then is not None:
            self._then(self)
        self.is_come.set()


def _is_away(error: Exception | None) -> bool:
    return isinstance(error, OSError) and error.errno in _AWAY
