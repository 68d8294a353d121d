"""One run at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from learning.processes import first_decides
from manifests.cli import say
from manifests.errors import UsageError

LOCK = ".lock"
PATIENCE_S = 60.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What disks of a network may say that keep no locks."""


class RunLock:
    """A lock on a run folder, held until the process ends; the lock of a killed run is waited for.

    Raises:
        UsageError: another run is still there.
    """

    def __init__(self, out: Path, name: str = "fit", patience_s: float | None = None) -> None:
        self._file = open(out / LOCK, "w")  # noqa: SIM115 - held until released
        patience_s = PATIENCE_S if patience_s is None else patience_s
        deadline, is_told = time.monotonic() + patience_s, False
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    say(f"{name}: {out} lies where nothing can be locked: see that no other run uses it")
                    return
                if not isinstance(error, BlockingIOError):
                    raise
                if time.monotonic() > deadline:
                    raise UsageError(
                        str(out), "is in use by another run", "Wait for it, stop it, or give another folder."
                    ) from error
                if not is_told:
                    say(f"{name}: {out} is in use by another run; waiting up to {patience_s:g} s for its end")
                    is_told = True
                time.sleep(0.2)

    def release(self) -> None:
        self._file.close()


@contextmanager
def one_at_a_time(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of a folder, which is made, on the first of all processes. Every process must call.

    Of what ends with an error before anything lies in the folder nothing is left.

    Raises:
        UsageError: another run is still there; on all of them.
    """
    held, made = list[RunLock](), [path for path in (folder, *folder.parents) if not path.exists()]

    def lock() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        held.append(RunLock(folder, name))

    first_decides(lock)
    try:
        yield
    except BaseException:
        if held and [path.name for path in folder.iterdir()] == [LOCK]:  # nothing was begun in it
            (folder / LOCK).unlink()
            with suppress(OSError):  # something else lies in it
                for path in made:
                    path.rmdir()
        raise
    finally:
        for own in held:
            own.release()
