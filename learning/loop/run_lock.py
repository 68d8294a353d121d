"""One run at a time in a folder."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

from manifests.cli import say
from manifests.errors import UsageError

PATIENCE_S = 60.0


class RunLock:
    """A lock on a run folder, held until the process ends; the lock of a killed run is waited for.

    Raises:
        UsageError: another run is still there.
    """

    def __init__(self, out: Path, name: str = "fit", patience_s: float | None = None) -> None:
        self._file = open(out / ".lock", "w")  # noqa: SIM115 - held until released
        patience_s = PATIENCE_S if patience_s is None else patience_s
        deadline, is_told = time.monotonic() + patience_s, False
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
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
