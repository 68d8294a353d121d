"""Run the product as a user would: as commands, in processes of their own."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
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
