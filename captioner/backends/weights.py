"""Which weights a model name means: a folder by all of its bytes, a hub id by its revision.

A name that could mean other weights tomorrow must not name a column: a hub id without a revision means the
one that this machine has in its cache, else the one that the hub has now, and that one is used from then on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from manifests.errors import UsageError
from manifests.fingerprint import file_sha256


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rushes" / "digests.json"


def _known() -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_cache().read_text())
        if isinstance(found, dict):
            return found
    return {}


def _remember(known: dict[str, str]) -> None:
    """Best effort: without a cache the bytes are read again."""
    with contextlib.suppress(OSError):
        _cache().parent.mkdir(parents=True, exist_ok=True)
        temporary = _cache().with_name(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(known))
        temporary.replace(_cache())


def file_digests(paths: list[Path]) -> list[str]:
    """SHA-256 of each file, read once: remembered by its place, size and modification time."""
    known, is_new, found = _known(), False, []
    for path in paths:
        facts = path.stat()
        key = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
        if key not in known:
            known[key], is_new = file_sha256(path), True
        found.append(known[key])
    if is_new:
        _remember(known)
    return found


def folder_digest(folder: Path) -> str:
    """16 hex digits that name a model: all bytes of a folder's files, or of one file.

    Links to folders are followed; what is hidden, as a download's own notes are, does not
    count.
    """
    paths = [folder] if folder.is_file() else sorted(_files_below(folder))
    names = [str(path.relative_to(folder)) if path != folder else "" for path in paths]
    seen = hashlib.sha256()
    for name, digest in zip(names, file_digests(paths), strict=True):
        seen.update(f"{name}:{digest}\n".encode())
    return seen.hexdigest()[:16]


def _files_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Args: above: where the folders above really lie, so that a link back up ends there."""
    here = os.path.realpath(folder)
    if here in above:
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _files_below(path, above | {here})
        elif path.is_file():
            yield path


@dataclass(frozen=True)
class Weights:
    """A model of `transformers`: a folder with its digest, or a hub id with its revision."""

    place: str
    digest: str = ""
    revision: str | None = None

    @property
    def label(self) -> str:
        """What provenance calls it."""
        return Path(self.place).name if self.digest else f"{self.place}@{self.revision}"


def weights_of(model: str) -> Weights:
    """What a name means: a folder, `ORG/NAME@REVISION`, or `ORG/NAME` as this machine or the hub has it now.

    Raises:
        UsageError: it is a hub id whose revision can be found neither here nor there.
    """
    if Path(model).is_dir():
        return Weights(model, digest=folder_digest(Path(model)))
    place, _, revision = model.partition("@")
    return Weights(place, revision=revision or _revision(place))


def _revision(place: str) -> str:
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        found = try_to_load_from_cache(place, "config.json")
        if isinstance(found, str):
            return Path(found).parent.name  # .../snapshots/REVISION/config.json
        return str(HfApi().model_info(place, timeout=10).sha)
    except Exception as error:
        raise UsageError(
            place,
            f"is no folder, and which revision of the hub's model is meant cannot be found out ({error})",
            f"Give a folder, or {place}@REVISION.",
        ) from error
