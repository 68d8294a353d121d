"""Which version of the program this is, and of the libraries its results depend on."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

_LIBRARIES = ("torch", "ray", "av")


def version_line() -> str:
    """Such as `rushes 0.1.0 (commit 1a2b3c4), torch 2.14.1, ray 2.60.0, av 18.1.0, python 3.11.7`."""
    parts = [f"rushes {_version('rushes')} (commit {commit() or 'unknown'})"]
    parts += [f"{name} {_version(name)}" for name in _LIBRARIES]
    return ", ".join([*parts, f"python {platform.python_version()}"])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """The commit of this checkout, `-dirty` behind it where files differ; empty if that is not known."""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()
    try:  # installed by pip from a repository
        origin = importlib.metadata.distribution("rushes").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return str(json.loads(origin or "{}").get("vcs_info", {}).get("commit_id", ""))[:7]
