"""The decoders of this process: one serves one file at a time, and is kept for the next."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator

from media.apart.process import Decoder
from media.errors import MediaError

_MOST_IDLE = 2


class _Pool:
    """The decoders of this process: those in use, and those that wait for the next file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Decoder] = []
        self._busy: list[Decoder] = []
        self._owner = os.getpid()

    @contextlib.contextmanager
    def borrowed(self, uri: str, *, is_new: bool = False, on_gpu: bool = False) -> Iterator[Decoder]:
        """A decoder for one file.

        Args:
            is_new: one that has served no other.
            on_gpu: one that holds a GPU.
        """
        decoder, is_kept = self._take(is_new, on_gpu), False
        decoder.begin(uri)
        try:
            yield decoder
            is_kept = True
        except (MediaError, OSError, GeneratorExit):  # between two messages, not amid one
            is_kept = True
            raise
        finally:
            self._give(decoder, is_kept=is_kept)

    def _take(self, is_new: bool, on_gpu: bool) -> Decoder:
        with self._lock:
            if self._owner != os.getpid():  # this process was forked: they are its parent's
                self._idle, self._busy, self._owner = [], [], os.getpid()
            while found := [decoder for decoder in self._idle if decoder.on_gpu == on_gpu and not is_new]:
                self._idle.remove(found[-1])
                if found[-1].is_alive:
                    self._busy.append(found[-1])
                    return found[-1]
        decoder = Decoder(on_gpu=on_gpu)
        with self._lock:
            self._busy.append(decoder)
        return decoder

    def _give(self, decoder: Decoder, *, is_kept: bool) -> None:
        with contextlib.suppress(MediaError, OSError):
            if is_kept and decoder.is_alive:
                decoder.ask("stop")
        decoder.rest()
        with self._lock:
            self._busy.remove(decoder)
            alike = [other for other in self._idle if other.on_gpu == decoder.on_gpu]
            if is_kept and decoder.is_alive and len(alike) < _MOST_IDLE:
                self._idle.append(decoder)
                return
        decoder.end()

    def pids(self) -> list[int]:
        with self._lock:
            return [decoder.pid for decoder in (*self._idle, *self._busy)]

    def end(self) -> None:
        if self._owner == os.getpid():
            for decoder in (*self._idle, *self._busy):
                decoder.end()
            self._idle.clear()


_pool = _Pool()
atexit.register(_pool.end)
borrowed, end = _pool.borrowed, _pool.end


def pids() -> list[int]:
    """The processes that decode for this one."""
    return _pool.pids()
