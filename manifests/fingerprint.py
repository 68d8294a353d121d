"""Fingerprints: the name of one version of a column.

A fingerprint is the hash of everything that decides a column's bytes besides the plan: the stage's
configuration, the digests of its weights, the fingerprints of its input columns and the stage's code version.
Equal fingerprint, equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

LENGTH = 10


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same value gives the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def fingerprint(
    stage: str, code_version: int, config: dict, inputs: dict[str, str] | None = None, weights: str = ""
) -> str:
    """A short hex name of a column's version.

    Args:
        stage: the stage's name.
        code_version: an integer that the stage's author raises when its output changes.
        config: JSON-able settings that change the output. Leave out what does not (threads, batch size).
        inputs: input column name to fingerprint.
        weights: sha256 of the weights used, if any.
    """
    text = canonical_json(
        {"stage": stage, "code": code_version, "config": config, "inputs": inputs or {}, "weights": weights}
    )
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def draw_of(name: str) -> float:
    """A number from 0 to 1, evenly spread over names, that follows from a name alone."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8


def file_sha256(path: Path) -> str:
    """SHA-256 of a local file's bytes, in hex; no more than a piece of it is held."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
