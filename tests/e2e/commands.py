"""Run the product as a user would: as commands, in processes of their own."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def environment(**extra: str) -> dict[str, str]:
    """The environment without any Ray address of ours or others."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return kept | {"PYTHONUNBUFFERED": "1"} | extra


def run(*arguments: object, check: int | None = 0, **extra: str) -> subprocess.CompletedProcess:
    """`rushes ARGUMENTS...`; fails with the whole output unless the exit code is `check`."""
    command = [sys.executable, "-m", "rushes", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(**extra), capture_output=True, text=True, check=False, timeout=550
    )
    assert check is None or done.returncode == check, (
        f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done


def start(*arguments: object, **extra: str) -> subprocess.Popen:
    """The same in the background, stderr on stdout."""
    command = [sys.executable, "-m", "rushes", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]


def together(size: int, *command: object, **env: str) -> list[subprocess.Popen]:
    """A Python command line as processes of one group, as torchrun starts them."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared |= {"OMP_NUM_THREADS": "1"} | env
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def ended(started: Sequence[subprocess.Popen], timeout_s: float) -> list[tuple[str, str]]:
    """What each of several processes that work together said, once all have ended with 0.

    One that fails, or a time limit, ends the others, which would wait for it.
    """
    said: list[tuple[str, str]] = [("", "")] * len(started)

    def listen(index: int) -> None:
        said[index] = started[index].communicate()

    threads = [threading.Thread(target=listen, args=(index,)) for index in range(len(started))]
    for thread in threads:
        thread.start()
    until_s = time.monotonic() + timeout_s
    while any(process.poll() is None for process in started):
        if any(process.returncode for process in started) or time.monotonic() > until_s:
            break
        time.sleep(0.05)
    for process in started:
        process.kill()
    for thread in threads:
        thread.join()
    bad = next((index for index, process in enumerate(started) if process.returncode > 0), None)
    bad = (
        next((index for index, process in enumerate(started) if process.returncode), None)
        if bad is None
        else bad
    )
    assert bad is None, f"process {bad} ended with {started[bad].returncode}\n{said[bad][0]}\n{said[bad][1]}"
    return said


def digests(name: str, data: bytes) -> dict[str, str]:
    """A file's SHA-256 by its name, and those of a tar's members: a difference names what differs."""
    found = {name: hashlib.sha256(data).hexdigest()}
    if name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                inside = tar.extractfile(member)
                found[f"{name}/{member.name}"] = hashlib.sha256(inside.read() if inside else b"").hexdigest()
    return found


def is_committed(name: str) -> bool:
    return not name.endswith(".tmp") and name.split("/", maxsplit=1)[0] in {"plan", "columns", "tables"}


def committed(dataset: Path) -> dict[str, str]:
    """Digests of every file of a dataset that a commit made, by name: plan, tars and table parts."""
    found: dict[str, str] = {}
    for path in sorted(dataset.rglob("*")):
        if path.is_file() and is_committed(name := str(path.relative_to(dataset))):
            found |= digests(name, path.read_bytes())
    return found


INGEST = ("--plan.shard-s", 12, "--encode.max-pixels", 4096)
