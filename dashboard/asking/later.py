"""Answers that take long: made beside the pages that show them, kept, and made again where things changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dashboard.index.index import Index

FEW_COMMITS = 5_000
"""Of a dataset with so few commits nothing takes long: a page waits for all of it."""
_PATIENCE_S, _ALL_S = 0.15, 60.0
_AGAIN_AFTER_S, _TIMES = 5.0, 20
"""An answer is made again after so long, and after so many times what it took."""
_MOST_HELD = 64


@dataclass(frozen=True)
class _Held:
    changes: int
    made_at_s: float
    took_s: float
    value: Any
    error: Exception | None = None

    def told(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Later:
    """Answers by what was asked; each is being made once at most."""

    def __init__(self, index: Index) -> None:
        self._index, self._lock = index, threading.Lock()
        self._held: dict[Hashable, _Held] = {}
        self._making: dict[Hashable, Future[Any]] = {}
        self._pool = ThreadPoolExecutor(2, "later")

    def ask(self, key: Hashable, work: Callable[[], Any], is_patient: bool = False) -> Any:
        """The answer, of some time before if a newer one takes long; None where there is none yet.

        What went wrong is raised, and tried again after as long.

        Args:
            key: what is asked.
            work: makes the answer.
            is_patient: to wait for it.
        """
        with self._lock:
            held = self._held.get(key)
            age_s = time.monotonic() - held.made_at_s if held else 0.0
            is_new = held is not None and held.changes == self._index.changes
            is_fresh = held is not None and age_s < max(_AGAIN_AFTER_S, held.took_s * _TIMES)
            may_be_old = held is not None and is_fresh and held.took_s > _PATIENCE_S and not is_patient
            if held is not None and (is_new or may_be_old) and (held.error is None or is_fresh):
                return held.told()
            making = self._making.get(key)
            if making is None:
                making = self._making[key] = self._pool.submit(self._make, key, work)
        is_patient = is_patient or self._index.num_commits <= FEW_COMMITS
        try:
            return making.result(_ALL_S if is_patient else 0.0 if held else _PATIENCE_S)
        except TimeoutError:
            return held.told() if held else None

    def _make(self, key: Hashable, work: Callable[[], Any]) -> Any:
        begin_s, changes = time.monotonic(), self._index.changes
        try:
            value = work()
        except Exception as error:
            self._hold(key, changes, begin_s, error=error)
            raise
        self._hold(key, changes, begin_s, value)
        return value

    def _hold(
        self, key: Hashable, changes: int, begin_s: float, value: Any = None, error: Exception | None = None
    ) -> None:
        now_s = time.monotonic()
        with self._lock:
            self._making.pop(key)
            self._held.pop(key, None)  # the newest is the last
            self._held[key] = _Held(changes, now_s, now_s - begin_s, value, error)
            while len(self._held) > _MOST_HELD:
                self._held.pop(next(iter(self._held)))
