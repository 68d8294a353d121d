"""Installing a peer and running it: wall and CPU time of all its processes, and the end of all of them.

CPU seconds are those of the kernel's control group where one can be made (root): `getrusage` leaves out the
workers of Ray (of one small ingest it told 21 of 29 seconds). Where no group can be made it must do.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from peer_tools import Peer

SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER: what a tool leaves behind becomes our child, so that it is found and ended."""


class Run(NamedTuple):
    code: int
    wall_s: float
    cpu_s: float
    is_cut_off: bool


def offspring() -> list[int]:
    """Our children, theirs, and so on."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        parents.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        todo_next = [child for parent in todo for child in parents.get(parent, [])]
        found, todo = found + todo_next, todo_next
    return found


def end_all() -> None:
    """Kill all that we started, and wait for it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for pid in offspring():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.05)


class Group:
    """A control group of the kernel that counts the CPU time of all processes in it; none if we may not."""

    def __init__(self, name: str) -> None:
        one, two = Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")
        self.folder: Path | None = (one if one.is_dir() else two) / name
        try:
            self.folder.mkdir()
            self.cpu_s()
        except OSError:
            self.folder = None

    def enter(self) -> None:
        if self.folder:
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def cpu_s(self) -> float:
        if self.folder is None:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return used.ru_utime + used.ru_stime
        if (self.folder / "cpuacct.usage").exists():
            return int((self.folder / "cpuacct.usage").read_text()) / 1e9
        return int((self.folder / "cpu.stat").read_text().split()[1]) / 1e6

    def close(self) -> None:
        if self.folder:
            self.folder.rmdir()


def run(words: list[str], environment: dict[str, str], log: Path, limit_s: float) -> Run:
    """Run to the end, or kill everything when the time is over."""
    group = Group(f"peers-{os.getpid()}-{time.monotonic_ns()}")
    begin_s, begin_cpu_s, code, is_cut_off = time.monotonic(), group.cpu_s(), -1, False
    with log.open("wb") as file:
        process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            preexec_fn=group.enter,  # noqa: PLW1509 - there are no threads here
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            is_cut_off = True
        finally:
            wall_s = time.monotonic() - begin_s
            end_all()
            process.returncode = code
    used_s = group.cpu_s() - begin_cpu_s
    time.sleep(0.2)
    group.close()
    return Run(code, wall_s, used_s, is_cut_off)


def install(name: str, peer: Peer, work: Path) -> tuple[Path, str]:
    """Its Python and "", or the last line of what the installer said."""
    folder = work / "env" / name.removesuffix("-copy")
    python, tools = folder / "bin" / "python", work / "env" / "tools" / "bin"
    if (folder / "complete").exists():
        return python, ""
    environment = {**os.environ, "UV_CACHE_DIR": str(work / "uv")}
    steps = [[sys.executable, "-m", "venv", str(folder)]]
    if not (tools / "uv").exists():
        steps.append([sys.executable, "-m", "venv", str(tools.parent)])
        steps.append([str(tools / "pip"), "install", "-q", "uv"])
    steps.append([str(tools / "uv"), "pip", "install", "--python", str(python), *peer.needs])
    for step in steps:
        log = work / "install.log"
        with log.open("wb") as file:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
            try:
                code = subprocess.run(step, env=environment, timeout=1200, check=False, **streams).returncode
            except subprocess.TimeoutExpired:
                return python, "not installed within 20 minutes"
        if code:
            lines = log.read_text().strip().splitlines() or ["no word of the installer"]
            return python, lines[-1].strip(" ╰─▶│")
    (folder / "complete").touch()
    return python, ""


def version_of(python: Path, package: str) -> str:
    if package == "rushes":
        return importlib.metadata.version(package)
    ask = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def adopt() -> None:
    """Become the parent of all that our children leave behind."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
