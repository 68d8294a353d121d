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
"""How long a page waits, and how long after it waited in vain no other does."""
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
        self._late: dict[str, tuple[Any, Exception | None]] = {}

    @property
    def is_local(self) -> bool:
        return storage.is_local(self._dataset.filesystem)

    def trouble(self) -> str:
        """What pages say of the store, or of a folder that is gone; empty where all is well."""
        if self.is_local:
            root = self._dataset.root
            return "" if Path(root).is_dir() else f"{root} is not there any more"
        return self.problem and f"{self.problem}; what is shown was known before"

    def ask(self, work: Callable[[], T], key: str = "", patience_s: float = 0.0) -> T:
        """What `work` gives, or gave late to an earlier question of this key.

        Args:
            key: of a question that is asked again and again; without one a late answer is lost.
            patience_s: how long to wait, where not `PATIENCE_S`.

        Raises:
            AwayError: there is no answer in time, or an earlier question still waits for its own.
        """
        if self.is_local:
            return work()
        with self._lock:
            if key in self._late:
                return self._told(*self._late.pop(key))  # type: ignore[no-any-return]
            if key in self._owed or (self.problem and time.monotonic() - self._since_s < AGAIN_S):
                raise AwayError(errno.ETIMEDOUT, self.problem)
            if key:
                self._owed.add(key)
        come, answers = threading.Event(), list[tuple[Any, Exception | None]]()

        def answer() -> None:
            try:
                found: tuple[Any, Exception | None] = work(), None
            except Exception as error:  # noqa: BLE001 - raised where it was asked
                found = None, error
            with self._lock:
                self._owed.discard(key)
                self._note(found[1])
                if come.is_set():  # nobody waits any more
                    if key:
                        self._late[key] = found
                    return
                answers.append(found)
                come.set()

        threading.Thread(target=answer, daemon=True, name=f"store {key}").start()
        come.wait(patience_s or PATIENCE_S)
        with self._lock:
            if answers:
                return self._told(*answers[0])  # type: ignore[no-any-return]
            come.set()
            self.problem, self._since_s = f"{self._dataset.uri} does not answer", time.monotonic()
            raise AwayError(errno.ETIMEDOUT, self.problem)

    def _note(self, error: Exception | None) -> None:
        if isinstance(error, OSError) and error.errno in _AWAY:
            self.problem, self._since_s = f"{self._dataset.uri} cannot be read", time.monotonic()
        else:
            self.problem = ""

    @staticmethod
    def _told(found: Any, error: Exception | None) -> Any:
        if error is not None:
            raise error
        return found
