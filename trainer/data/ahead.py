"""An iterator run ahead by a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_LOOK_EVERY_S = 0.1


class Ahead(Generic[T]):
    """The items of an iterator, `count` of them made before they are asked for; errors come in their place.

    Use as a context manager, which gives an iterator: on leaving, the thread is stopped and waited for.
    """

    def __init__(self, items: Iterator[T], count: int) -> None:
        self._items, self._queue = items, queue.Queue[tuple[T | None, BaseException | None]](count)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="ahead")

    def _run(self) -> None:
        while True:
            try:
                made: tuple[T | None, BaseException | None] = next(self._items), None
            except BaseException as error:  # noqa: BLE001 - it is raised where the item is asked for
                made = None, error
            while not self._is_over.is_set():
                try:
                    self._queue.put(made, timeout=_LOOK_EVERY_S)
                    break
                except queue.Full:
                    continue
            if self._is_over.is_set() or made[1] is not None:
                return

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._given()

    def _given(self) -> Iterator[T]:
        while True:
            item, error = self._queue.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
