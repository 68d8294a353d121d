"""The writer's lease: who works on a dataset, so that a second writer is told and does not do it all again.

It saves work; it is not what keeps data whole. Commits do that by themselves (`manifests.writing.commit`): a
writer that was taken for dead and comes back cannot spoil what others have committed.

`lease.json` says who, where, since when, and when it was last renewed. A holder that is gone is passed over:
at once where its process can be looked up, else `STALE_S` after it last wrote, by the clock of the store.
"""

from __future__ import annotations

import _thread
import contextlib
import getpass
import json
import os
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from manifests.cli import say
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.store import storage

RENEW_S, STALE_S = 10.0, 60.0
FILE, TRIAL = "lease.json", "lease.trial"


@dataclass(frozen=True)
class Holder:
    """A writer.

    Attributes:
        machine: this boot of this machine and its space of process numbers; where it is the same, `pid` and
            `started` (its start in clock ticks) tell whether the process is alive.
        renewed_s: seconds since 1970 by its own clock; 0 where the lease was given back.
    """

    token: str
    user: str
    host: str
    machine: str
    pid: int
    started: int
    command: str
    since_s: float
    renewed_s: float

    @property
    def name(self) -> str:
        return f"{self.user} on {self.host} (process {self.pid}: {self.command})"

    @property
    def is_here(self) -> bool:
        """Whether its process can be looked up."""
        return self.machine == _machine()

    def is_gone(self, heard_s: float) -> bool:
        """Whether the lease is free to take.

        Args:
            heard_s: how long ago it was last written.
        """
        if not self.renewed_s:
            return True
        if self.is_here:
            return _started(self.pid) != self.started
        return heard_s > STALE_S


def is_abandoned(dataset: Dataset) -> bool:
    """Whether who wrote last was a process of this machine that ended without giving its lease back."""
    try:
        holder, _ = read(dataset)
    except OSError:
        return False
    return holder is not None and holder.is_here and bool(holder.renewed_s) and holder.is_gone(0.0)


def working(dataset: Dataset) -> Holder | None:
    """Who holds the lease, as far as can be told without writing; None where it is free, its holder is gone,
    or it cannot be read."""
    try:
        holder, _ = read(dataset)
        if holder is None or not holder.renewed_s:
            return None
        return None if holder.is_gone(heard_s(dataset, asks_store=False)) else holder
    except OSError:
        return None


def heard_s(dataset: Dataset, *, asks_store: bool = True) -> float:
    """How many seconds ago the lease was last written, by the clock of the disk or the store; under 0 where
    that was set back since.

    Clocks of two machines differ; the one that holds the lease keeps the time of both.

    Args:
        asks_store: by a small file that is written and removed; else by this machine's clock.
    """
    path = dataset.path(FILE)
    now_s = time.time()
    if asks_store:
        probe = storage.temporary_name(path)
        try:
            storage.write_bytes(dataset.filesystem, probe, b"")
            now_s = dataset.filesystem.get_file_info(probe).mtime_ns / 1e9
            storage.delete_files(dataset.filesystem, [probe])
        except (OSError, TypeError) as error:  # the lease itself will tell what is wrong
            say(f"{dataset.uri}: the clock of this machine is gone by ({error})")
    info = dataset.filesystem.get_file_info(path)
    return now_s - info.mtime_ns / 1e9 if info.is_file and info.mtime_ns else 0.0


_FIELDS: dict[str, type] = {
    **dict.fromkeys(("token", "user", "host", "machine", "command"), str),
    **dict.fromkeys(("pid", "started"), int),
    **dict.fromkeys(("since_s", "renewed_s"), float),
}


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no /proc: processes cannot be looked up
        return uuid.uuid4().hex


def _started(pid: int) -> int:
    """When a process was started, in clock ticks since the boot; -1 where there is none.

    One that has died stays listed until its parent asks for it, which in containers may be never.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return -1 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return -1


def this_process(command: str) -> Holder:
    """This process as a writer that begins now."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user number without a name, as in containers
        user = str(os.getuid())
    now_s = time.time()
    return Holder(
        token=uuid.uuid4().hex,
        user=user,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        command=command,
        since_s=now_s,
        renewed_s=now_s,
    )


def read(dataset: Dataset) -> tuple[Holder | None, bytes | None]:
    """Who holds a dataset's lease, and the bytes that say so; a lease that cannot be read is nobody's."""
    try:
        data = storage.read_bytes(dataset.filesystem, dataset.path(FILE))
    except FileNotFoundError:
        return None, None
    return _holder(data), data


def _holder(data: bytes) -> Holder | None:
    """Who a lease names, whatever other keys a later version has put beside; None for what is none."""
    try:
        found = json.loads(data)
        own = {name: kind(found[name]) for name, kind in _FIELDS.items()}
        time.localtime(own["since_s"])
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError):
        return None
    return Holder(**own)


class Lease:
    """A dataset's lease for as long as the context lasts; renewed by a thread.

    Raises:
        UsageError: another writer holds it, or it is read at a snapshot; or, on leaving, it was taken over
            from this one.
    """

    def __init__(self, dataset: Dataset, command: str = "") -> None:
        self.dataset = dataset
        self.own = this_process(command or " ".join(["rushes", *sys.argv[1:2]]))
        self._stored = b""
        self._is_over = threading.Event()
        self._taken_by, self._is_gone = "", False
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Lease:
        if self.dataset.at:
            raise UsageError(
                self.dataset.address, "is a snapshot, which nobody writes to", f"Give {self.dataset.uri}."
            )
        holder, before = read(self.dataset)
        is_held = holder is not None and holder.renewed_s != 0
        storage.check_conditions(self.dataset.filesystem, self.dataset.path(TRIAL))
        is_elsewhere = holder is not None and is_held and not holder.is_here
        ago_s = heard_s(self.dataset, asks_store=is_elsewhere) if is_held else 0.0
        if is_elsewhere and ago_s < -RENEW_S:
            ago_s = self._watched(before)
        if holder and not holder.is_gone(ago_s):
            raise self._refusal(holder, ago_s)
        self._stored = _bytes(self.own)
        if not self._swap(self._stored, before):
            other, _ = read(self.dataset)
            raise self._refusal(other or self.own, 0.0)
        if holder is None and before:
            say(f"{self.dataset.uri}: {FILE} cannot be read and is written anew")
        if holder and is_held:
            say(f"{self.dataset.uri}: taken over from {holder.name}, which is gone")
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._is_over.set()
        self._thread.join()
        if self._is_gone:
            raise UsageError(
                self.dataset.uri,
                "is not there any more: it was moved or deleted, or what it lies on is no longer mounted",
                "Bring it back and run the command again: what was committed before is as it was.",
            ) from error
        if self._taken_by:
            raise UsageError(
                self.dataset.uri,
                f"was taken over by {self._taken_by} while this process was not heard of",
                "Nothing committed is lost; run the command again when that one has ended.",
            ) from error
        try:
            self._swap(_bytes(replace(self.own, renewed_s=0.0)), self._stored)
        except OSError:
            if error is None:  # else that says what could not be done; the lease goes stale by itself
                raise
        if storage.is_local(self.dataset.filesystem):
            for debris in Path(self.dataset.path()).glob(f".{FILE}.*.tmp"):  # of writers that were killed
                with contextlib.suppress(OSError):
                    if time.time() - debris.stat().st_mtime > STALE_S:
                        debris.unlink()

    def _watched(self, before: bytes | None) -> float:
        """How long the lease has not been renewed, by this process's own watch: other clocks were set."""
        say(
            f"{self.dataset.uri}: {FILE} is of the future, a clock was set back; "
            f"watching for {STALE_S:.0f} s whether it is renewed"
        )
        begin_s = time.monotonic()
        while (ago_s := time.monotonic() - begin_s) <= STALE_S:
            time.sleep(RENEW_S / 2)
            if read(self.dataset)[1] != before:
                return 0.0
        return ago_s

    def _swap(self, data: bytes, before: bytes | None) -> bool:
        return storage.swap_bytes(self.dataset.filesystem, self.dataset.path(FILE), data, before)

    def _refusal(self, holder: Holder, ago_s: float) -> UsageError:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since_s))
        return UsageError(
            self.dataset.uri,
            f"is being written by {holder.name} since {since}, last heard of {max(0.0, ago_s):.0f} s ago",
            f"Wait for it, or stop it and try again {STALE_S:.0f} s later.",
        )

    def _renew(self) -> None:
        while not self._is_over.wait(RENEW_S):
            fresh, holder = _bytes(replace(self.own, renewed_s=time.time())), None
            try:
                if self._swap(fresh, self._stored):
                    self._stored = fresh
                    continue
                holder, stored = read(self.dataset)
                if (
                    stored and holder and holder.token == self.own.token
                ):  # it had been renewed, and the answer was lost
                    self._stored = stored
                    continue
                self.dataset.check_there()
            except FileNotFoundError:
                self._is_gone = True
            except OSError:  # the store is away; the work itself finds out, and the next renewal tries again
                continue
            self._taken_by = holder.name if holder else "another writer"
            _thread.interrupt_main()
            return


def _bytes(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder), indent=1) + "\n").encode()
