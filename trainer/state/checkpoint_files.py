"""Checkpoint folders: atomic writes, rotation, and a size and crc32 per file to detect damage.

Names in a run's `checkpoints`: `step-<n>` is complete; `.step-<n>.tmp` is being written; `.step-<n>.old` was
complete and gives way to one of the same step; `.step-<n>.gone` is being deleted; `.step-<n>.copying-<rank>`
is being copied elsewhere; `.step-<n>.damaged` was
found so and is left for whoever wants to look.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import zlib
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from learning import processes
from manifests.cli import say
from manifests.errors import IntegrityError, RushesError, UsageError
from manifests.store.json_files import read_local_object
from manifests.store.storage import flush
from trainer.state.parallel import Ranks

STATE = "state.json"
HAS_CHECKPOINTS = ".has-checkpoints"
"""In a run's folder, once a checkpoint is there: that they are gone is told then."""
_SUMS = ".sums-"
_NUMBERED = re.compile(r"step-(\d{8})\b")
_ASIDE = ".{}.damaged"
TRUSTED = "trusted"
_CHUNK = 16 << 20
_LOOK_AT_DISK = "Look at the disk, or at how the folder is shared, and run it again; nothing was set aside."
Sums = dict[str, list[int]]
"""Size and crc32 of files, by name."""


@dataclass(frozen=True)
class TrainState:
    """Where a run stands: steps done, digest of data and plan, state of the guard, counts of samples.

    `plan_mark` is where the plan's epoch began (`Curriculum.mark`); `not_yet_trusted` are calm steps since
    each checkpoint that may still turn out spoiled (trainer/run/going_back.py).
    """

    step: int
    digest: str
    recent: list[float] = field(default_factory=list)
    in_a_row: int = 0
    num_skipped: int = 0
    num_rolled_back: int = 0
    norms: list[float] = field(default_factory=list)
    usual: float = 0.0
    calm: int = 0
    not_yet_trusted: dict[str, int] = field(default_factory=dict)
    plan_mark: list[int] = field(default_factory=list)
    num_read: int = 0
    num_corrupt: int = 0


def trust(path: Path) -> None:
    """Note that the run stayed calm beyond a checkpoint."""
    (path / TRUSTED).touch()


def is_trusted(path: Path) -> bool:
    """Whether a run that has blown up may go back to a checkpoint."""
    return (path / TRUSTED).exists()


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is once it is complete."""
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step of a complete checkpoint, by its name."""
    return int(path.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE).exists())


def has_lost(folder: Path) -> bool:
    """Whether a run that has written checkpoints here has none any more, though it deleted none itself."""
    return (folder.parent / HAS_CHECKPOINTS).exists() and not has_begun(folder)


def has_begun(folder: Path) -> bool:
    """Whether a run has written checkpoints, be they damaged and set aside since."""
    return bool(list_checkpoints(folder)) or any(folder.glob(_ASIDE.format("step-*")))


def read_state(path: Path) -> TrainState:
    """The state of a checkpoint.

    Raises:
        UsageError: another version wrote it.
    """
    stored = read_local_object(path / STATE)
    if "state" not in stored or "files" not in stored:
        raise UsageError(
            str(path / STATE),
            "was written by another version",
            "Go on with that version, or give another --out to begin anew.",
        )
    if not _is_as_written(path, stored):
        raise IntegrityError(str(path / STATE), "is damaged: it is not what was written for this step")
    try:
        return TrainState(**stored["state"])
    except TypeError as error:
        raise UsageError(
            str(path / STATE),
            f"was written by another version ({error})",
            "Go on with that version, or give another --out to begin anew.",
        ) from error


def _is_as_written(path: Path, stored: dict[str, Any]) -> bool:
    """Whether a state is what its checksum says (older versions wrote none), and of its folder's step."""
    if not isinstance(stored["state"], dict) or not isinstance(step := stored["state"].get("step"), int):
        return False
    own, number = json.dumps(stored["state"], sort_keys=True).encode(), _NUMBERED.search(path.name)
    return (number is None or int(number[1]) == step) and stored.get("crc32", zlib.crc32(own)) == zlib.crc32(
        own
    )


def readable_states(folder: Path) -> list[TrainState]:
    """States of the checkpoints whose state can be read, oldest first."""
    found = []
    for path in list_checkpoints(folder):
        with contextlib.suppress(IntegrityError):  # `newest_sound` names it and sets it aside
            found.append(read_state(path))
    return found


def temporary_folder(folder: Path, step: int) -> Path:
    return folder / f".step-{step:08d}.tmp"


def copying_folder(folder: Path, step: str, rank: int) -> Path:
    """Where a process holds the files of a checkpoint that it is copying elsewhere."""
    return folder / f".{step}.copying-{rank}"


def sweep(folder: Path) -> None:
    """Clear what a killed process left half-way. Only for who holds the run's lock."""
    for path in folder.glob(".step-*.old"):
        final = folder / path.name[1 : -len(".old")]
        if final.exists():
            shutil.rmtree(path)
        else:
            path.rename(final)  # killed between giving way and appearing
    for pattern in (".step-*.tmp", ".step-*.gone", ".step-*.copying-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _checked(path: Path) -> tuple[int, int]:
    """Size and crc32 of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(_CHUNK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def appear(folder: Path, state: TrainState, keep: int, ranks: Ranks, sums: Sums) -> Path:
    """Rename a finished checkpoint to its final name, and delete the oldest beyond `keep`; returns its path.

    Every process must call.

    Args:
        sums: of the files that this process has written.
    """
    ranks.wait()
    temporary, final = temporary_folder(folder, state.step), checkpoint_path(folder, state.step)
    files = _checksums(temporary, ranks, sums)
    if ranks.is_first:
        own = asdict(state)
        crc = zlib.crc32(json.dumps(own, sort_keys=True).encode())
        (temporary / STATE).write_text(json.dumps({"state": own, "files": files, "crc32": crc}))
        flush(temporary / STATE)
        flush(temporary)
        old = folder / f".{final.name}.old"
        if final.exists():
            final.rename(old)
        temporary.rename(final)
        flush(folder)
        (folder.parent / HAS_CHECKPOINTS).touch()
        shutil.rmtree(old, ignore_errors=True)
        _rotate(folder, keep)
    ranks.wait()
    return final


def _checksums(folder: Path, ranks: Ranks, own: Sums) -> Sums:
    """Size and crc32 of each file of a checkpoint, by name; whole on the first process alone.

    Each process leaves those of its files for the first, which reads what nobody has counted.
    """
    (folder / f"{_SUMS}{ranks.rank}.json").write_text(json.dumps(own))
    ranks.wait()
    if not ranks.is_first:
        return own
    files: Sums = {}
    for part in sorted(folder.glob(f"{_SUMS}*.json")):
        files |= read_local_object(part)
        part.unlink()
    for path in (path for path in folder.rglob("*") if path.is_file()):
        if (name := str(path.relative_to(folder))) not in files:
            files[name] = list(_checked(path))
            flush(path)
    return dict(sorted(files.items()))


def _rotate(folder: Path, keep: int) -> None:
    """Delete the oldest checkpoints beyond `keep`.

    Neither the last one that a run may go back to, nor the next that may become one.
    """
    found = list_checkpoints(folder)
    last = max((place for place, path in enumerate(found) if is_trusted(path)), default=-1)
    spared = found[max(last, 0) : last + 2]
    for path in (path for path in found[:-keep] if path not in spared):
        gone = path.with_name(f".{path.name}.gone")
        path.rename(gone)
        shutil.rmtree(gone)


def damage(path: Path, ranks: Ranks) -> str:
    """What is wrong with a checkpoint's files; empty if nothing.

    Every process must call: each reads its share.

    Raises:
        RushesError: a file is there and cannot be read now, which is no damage of it; on every process.
    """
    why, files = processes.first_decides(lambda: _files_of(path))
    if why:
        return why
    names, bad, problem = sorted(files), [0.0] * len(files), ""
    for index in range(ranks.rank, len(names), ranks.size):
        try:
            bad[index] = float(_checked(path / names[index]) != tuple(files[names[index]]))
        except FileNotFoundError:  # the first process has just seen it
            cause = f"{names[index]} is not seen by process {ranks.rank}: --out is one folder for all"
            problem = problem or cause
        except OSError as error:
            problem = problem or f"{names[index]} cannot be read ({error.strerror or error})"
    if said := next(filter(None, processes.exchanged(problem)), ""):
        raise RushesError(str(path), said, _LOOK_AT_DISK)
    wrong = [name for name, value in zip(names, ranks.sum(bad), strict=True) if value]
    return f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not what was written" if wrong else ""


def _files_of(path: Path) -> tuple[str, dict[str, list[int]]]:
    """What is wrong with a checkpoint's record, and the size and crc32 of its files.

    Raises:
        RushesError: the record is there and cannot be read now.
    """
    try:
        stored = read_local_object(path / STATE)
        files: dict[str, list[int]] = stored["files"]
        is_as_written = _is_as_written(path, stored)
    except (IntegrityError, KeyError, TypeError, AttributeError, ValueError, FileNotFoundError):
        return f"{STATE} cannot be read", {}
    except OSError as error:
        raise RushesError(
            str(path), f"{STATE} cannot be read ({error.strerror or error})", _LOOK_AT_DISK
        ) from error
    if not is_as_written:
        return f"{STATE} is not what was written for this step", files
    missing = [name for name in sorted(files) if not (path / name).exists()]
    return (f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else ""), files


def newest_sound(folder: Path, ranks: Ranks) -> Path | None:
    """The newest checkpoint whose files are what was written; damaged ones are named and set aside.

    Every process must call.

    Raises:
        IntegrityError: there are checkpoints, and all are damaged, be it since an earlier start.
        RushesError: one cannot be read now; nothing is set aside for that.
    """
    for name in processes.first_decides(lambda: [path.name for path in list_checkpoints(folder)])[::-1]:
        if not (why := damage(folder / name, ranks)):
            return folder / name
        processes.first_decides(partial(_set_aside, folder / name, why))
    if aside_now := processes.first_decides(
        lambda: sorted(path.name for path in folder.glob(_ASIDE.format("step-*")))
    ):
        raise IntegrityError(
            str(folder),
            f"all checkpoints are damaged ({', '.join(aside_now)})",
            "Restore one from a backup, or give another --out to begin anew.",
        )
    return None


def _set_aside(path: Path, why: str) -> None:
    aside = path.with_name(_ASIDE.format(path.name))
    say(f"fit: {path} is damaged ({why}); set aside as {aside.name}, the one before it is taken")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
