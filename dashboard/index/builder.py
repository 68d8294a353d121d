"""The child that builds an index file: started, followed, ended; what a dead one left is removed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from manifests.cli import say
from manifests.store.storage import is_alive

_AGAIN_AFTER_S, _PATIENCE_S = 60.0, 10.0
_LEFT_BY = re.compile(r"^(?:whole|spill-|held-)(\d+)(?:-\d+)?(?:\.duckdb.*)?$")


class Builder:
    """Builds one file at a time.

    Attributes:
        progress: commits that are in and all, while the file is built.
        trouble: why there is no new file; empty where there is none to tell of.
    """

    def __init__(self, address: str, path: Path) -> None:
        """Args: address: of the dataset. path: of the index."""
        self._address, self._path = address, path
        self._child: subprocess.Popen | None = None
        self._not_before_s = 0.0
        self.progress: tuple[int, int] | None = None
        self.trouble = ""
        _tidy(path.parent)

    @property
    def is_at_work(self) -> bool:
        """Whether a file is being built, or is built and not taken yet."""
        return self._child is not None

    def start(self) -> None:
        """Build the file, unless that is going on or has just failed."""
        if self._child is not None or time.monotonic() < self._not_before_s:
            return
        self.progress = (0, 1)
        self._path.parent.mkdir(parents=True, exist_ok=True)  # anyone may have deleted it
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "dashboard.index.build", self._address, str(self._path)],
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        threading.Thread(target=self._follow, args=(self._child,), daemon=True).start()

    def _follow(self, child: subprocess.Popen) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            done, total = line.split()
            self.progress = (int(done), int(total))
        child.wait()

    def has_built(self) -> bool:
        """Whether a new file is there since this was asked last."""
        if self._child is None or self._child.poll() is None:
            return False
        is_built, self._child, self.progress = self._child.returncode == 0, None, None
        self.trouble = ""
        if not is_built:  # it has said why
            self._not_before_s = time.monotonic() + _AGAIN_AFTER_S
            self.trouble = f"the index could not be built, and is tried again in {_AGAIN_AFTER_S:.0f} s"
            say(f"{self._path}: {self.trouble}")
        return is_built

    def close(self) -> None:
        """End the child, and remove what it has not finished."""
        if self._child is None:
            return
        self._child.kill()
        self._child.wait(_PATIENCE_S)
        _tidy(self._path.parent)


def environment() -> dict[str, str]:
    """In which a child finds this program."""
    here = [str(Path(__file__).resolve().parents[2]), *sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, here))}


def _tidy(folder: Path) -> None:
    """Remove what processes left that are no more."""
    for path in folder.iterdir():
        left = _LEFT_BY.match(path.name)
        if left and not is_alive(int(left[1])):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
