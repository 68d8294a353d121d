"""Fast reading of tar members: open tars, reused buffers, and a local cache of object stores.

`shards.read_member` is the plain way, for a member now and then; this one is for a trainer that reads
millions.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from pyarrow import fs

from manifests.cli import say
from manifests.errors import IntegrityError
from manifests.store import storage
from manifests.store.shards import Member, check_payload

Check = Callable[[str, Member, bytes | memoryview], None]
OPEN_TARS = 32
STALE_S = 24 * 3600
MOST_AT_ONCE_BYTES = 1 << 30
"""Linux gives no more than 2 GiB by one call."""
TRIES, PAUSE_S = 3, 1.0
"""An object store that fails is asked again."""
_CACHED = re.compile(r"^[0-9a-f]{40}\.member$")
_UNFINISHED = re.compile(r"^\.[0-9a-f]{40}\.member\.[0-9a-f-]+\.tmp$")


class RangeCache:
    """Ranges of remote files on the local disk, the least recently used thrown out when they exceed a size.

    Files of other names than its own are never touched.

    Several processes may share a folder: files appear by a rename, and one that is gone is fetched anew. Each
    keeps to its limit for what it wrote or used. A disk that is full costs the cache, not the data.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if (
                _UNFINISHED.match(path.name) and time.time() - path.stat().st_mtime > STALE_S
            ):  # of a killed process
                path.unlink(missing_ok=True)
        found = sorted(
            (path.stat().st_mtime, path.name, path.stat().st_size)
            for path in folder.iterdir()
            if _CACHED.match(path.name)
        )
        self._sizes: OrderedDict[str, int] = OrderedDict(
            (name, size) for _, name, size in found
        )  # oldest use first
        self._total, self._lock = sum(self._sizes.values()), threading.Lock()
        self._is_full = False

    @staticmethod
    def name(path: str, member: Member) -> str:
        key = f"{path}|{member.offset}|{member.size_bytes}|{member.crc32}"
        return f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.member"

    def get(self, name: str) -> bytes | None:
        try:
            data = (self.folder / name).read_bytes()
            os.utime(self.folder / name)
        except FileNotFoundError:
            return None
        with self._lock:
            self._total += len(data) - self._sizes.pop(name, 0)
            self._sizes[name] = len(data)
        return data

    def put(self, name: str, data: bytes) -> None:
        temporary = Path(storage.temporary_name(str(self.folder / name)))
        try:
            temporary.write_bytes(data)
            temporary.replace(self.folder / name)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if not self._is_full:
                say(
                    f"cache {self.folder} cannot be written ({error}); what it lacks is read from the store "
                    "each time"
                )
            self._is_full = True
            return
        with self._lock:
            self._total += len(data) - self._sizes.pop(name, 0)
            self._sizes[name] = len(data)
            while self._total > self.limit_bytes and len(self._sizes) > 1:
                oldest, size = self._sizes.popitem(last=False)
                self._total -= size
                (self.folder / oldest).unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        """Forget a range whose bytes are not what they should be."""
        with self._lock:
            self._total -= self._sizes.pop(name, 0)
        (self.folder / name).unlink(missing_ok=True)


class MemberReader:
    """Members of many tars, by any number of threads.

    Args:
        cache: for an object store; local tars are read where they lie.
    """

    def __init__(self, filesystem: fs.FileSystem, cache: RangeCache | None = None) -> None:
        self.filesystem, self.cache, self._is_local = filesystem, cache, storage.is_local(filesystem)
        self._own = threading.local()  # each thread has its own open files and its own memory

    def view(self, path: str, member: Member) -> np.ndarray:
        """The payload, [size] uint8, checked; valid until this thread's next call.

        Raises:
            IntegrityError: the tar is shorter than the index says, or the bytes have changed.
            OSError: the tar cannot be read.
        """
        return self._read(path, member, check_payload)

    def slabs(
        self, path: str, member: Member, offset: int, size_bytes: int, crc32: Sequence[int]
    ) -> np.ndarray:
        """Parts of equal size of a member's payload, one after the other, each checked; valid as of `view`.

        Args:
            offset: of the first, in the payload.
            size_bytes: of each.
            crc32: of each.
        """
        part = Member(member.name, member.offset + offset, size_bytes * len(crc32), 0)

        def check(path: str, part: Member, data: bytes | memoryview) -> None:
            for number, crc in enumerate(crc32):
                slab = Member(f"{member.name} slab {number}", 0, size_bytes, crc)
                check_payload(path, slab, memoryview(data)[number * size_bytes : (number + 1) * size_bytes])

        return self._read(path, part, check)

    def _read(self, path: str, member: Member, check: Check) -> np.ndarray:
        room = self._room(member.size_bytes)
        if self._is_local:
            view = memoryview(cast(Any, room))
            size, file = 0, self._tar(path).fileno()
            while count := os.preadv(file, [view[size : size + MOST_AT_ONCE_BYTES]], member.offset + size):
                size += count
            check(path, member, memoryview(room[:size]))  # type: ignore[arg-type]
            return room
        data = self._fetched(path, member, check)
        room[:] = np.frombuffer(data, np.uint8)
        return room

    def _fetched(self, path: str, member: Member, check: Check) -> bytes:
        name = RangeCache.name(path, member)
        if self.cache and (data := self.cache.get(name)) is not None:
            try:
                check(path, member, data)
                return data
            except IntegrityError:
                self.cache.drop(name)  # the disk of this machine is at fault, not the store
        data = self._asked(path, member)
        check(path, member, data)
        if self.cache:
            self.cache.put(name, data)
        return data

    def _asked(self, path: str, member: Member) -> bytes:
        """From the store, more than once where it fails."""
        for attempt in range(1, TRIES + 1):
            try:
                return storage.read_range(self.filesystem, path, member.offset, member.size_bytes)
            except FileNotFoundError:
                raise
            except OSError:
                if attempt == TRIES:
                    raise
                time.sleep(PAUSE_S * attempt)
        raise AssertionError

    def _room(self, size: int) -> np.ndarray:
        room: np.ndarray | None = getattr(self._own, "room", None)
        if room is None or len(room) < size:
            room = self._own.room = np.empty(max(size, 1 << 20) * 3 // 2, np.uint8)
        return room[:size]

    def _tar(self, path: str) -> Any:
        tars: OrderedDict[str, Any] | None = getattr(self._own, "tars", None)
        if tars is None:
            tars = self._own.tars = OrderedDict()
        if path not in tars:
            # closed when it is pushed out, or with the thread
            tars[path] = open(path, "rb", buffering=0)  # noqa: SIM115
        tars.move_to_end(path)
        if len(tars) > OPEN_TARS:
            tars.popitem(last=False)[1].close()
        return tars[path]
