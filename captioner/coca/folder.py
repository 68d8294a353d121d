"""A captioner's folder and what it says of itself: `config.json` and `tokenizer.json`.

Nothing here needs the network's libraries: who starts a run names a captioner by its digests alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.coca.config import CocaConfig
from captioner.coca.tokenizer import CaptionTokenizer, ClipTokenizer, Tokens
from learning.committed import WEIGHTS, folder_of
from manifests.errors import UsageError
from manifests.fingerprint import file_sha256
from manifests.store import storage
from manifests.store.json_files import read_local_object

FORMAT = "video-coca/1"
STAGES = ("base", "short", "dense")
LOOKS = "looks.safetensors"
_AGAIN = "Take it from where the weights came from, or train anew."
DEFAULT_WEIGHTS = WEIGHTS / "captioner-tiny"


def captioner_folder(model: Path | str) -> Path:
    """The folder that a path, or the name of a folder under weights/, stands for; the default's if empty."""
    return folder_of(model, DEFAULT_WEIGHTS)


@dataclass(frozen=True)
class CaptionerFolder:
    """What a folder of captioner weights says of itself."""

    path: Path
    config: CocaConfig
    tokenizer: Tokens
    stages: dict[str, dict[str, Any]]


def read_folder(path: Path | str = DEFAULT_WEIGHTS) -> CaptionerFolder:
    """Read config and tokenizer.

    Raises:
        UsageError: the folder holds no captioner.
    """
    path = Path(path)
    if not (path / "config.json").exists():
        raise UsageError(
            str(path), "holds no captioner (no config.json)", "Train one with `rushes train-captioner`."
        )
    record = read_local_object(path / "config.json", _AGAIN, ("format", "config", "stages"))
    if record.get("format") != FORMAT:
        raise UsageError(str(path), f"has format {record.get('format')}, not {FORMAT}")
    config = CocaConfig.from_dict(record["config"])
    tokenizer: Tokens = (
        ClipTokenizer() if config.is_legacy else CaptionTokenizer.load(path / "tokenizer.json")
    )
    return CaptionerFolder(path, config, tokenizer, record["stages"])


def write_folder(path: Path, config: CocaConfig, tokenizer: Tokens) -> CaptionerFolder:
    """Make a folder for weights to come; one that is there must have the same sizes.

    Raises:
        UsageError: the folder holds a captioner of other sizes.
    """
    path.mkdir(parents=True, exist_ok=True)
    if (path / "config.json").exists():
        found = read_folder(path)
        if found.config != config:
            raise UsageError(str(path), "holds a captioner of other sizes", "Give another folder.")
        return found
    if isinstance(tokenizer, CaptionTokenizer):
        tokenizer.save(path / "tokenizer.json")
    record = {"format": FORMAT, "config": config.to_dict(), "stages": {}}
    storage.write_local(path / "config.json", (json.dumps(record, indent=2) + "\n").encode())
    return read_folder(path)


def update_record(path: Path, stage: str, record: dict[str, Any]) -> None:
    """Merge facts about a stage into `config.json`."""
    whole = read_local_object(path / "config.json", _AGAIN)
    whole["stages"][stage] = whole["stages"].get(stage, {}) | record
    storage.write_local(path / "config.json", (json.dumps(whole, indent=2) + "\n").encode())


def stage_digest(path: Path | str, stage: str) -> str:
    """sha256 of a stage's weights, 16 digits, for fingerprints and provenance."""
    weights = Path(path) / f"{stage}.safetensors"
    if not weights.exists():
        raise UsageError(
            str(path),
            f"has no stage {stage}",
            f"Train it with `rushes train-captioner {path} --stage {stage}`.",
        )
    return file_sha256(weights)[:16]


def looks_digest(path: Path | str) -> str:
    """sha256 of the looks by which a captioner abstains, 16 digits; empty where it has none."""
    found = Path(path) / LOOKS
    return file_sha256(found)[:16] if found.exists() else ""
