"""Trainings beside a dataset: their metrics, what they read of it, and their samples."""

from __future__ import annotations

import functools
import json
import math
import re
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dashboard.site import Site
from manifests.layout import Dataset
from manifests.runs.elsewhere import noted_trainings
from manifests.store import storage

SMOOTHING = 0.05
"""Share of a step in the smoothed loss."""
MOST_POINTS = 800
NOTES_S = 30.0
"""So often it is asked which trainings are noted."""
_MOST_STEPS = 500
"""Steps of a clip that are kept."""
_STEP = re.compile(r"^step-(\d+)$")
_FILE = re.compile(r"^[0-9A-Za-z_-]+\.(webm|png)$")
_OWN = ("metrics.jsonl", "config.json")


@functools.lru_cache(maxsize=4)
def _elsewhere(dataset: Dataset, _moment: int) -> list[Path]:
    """Trainings outside of the dataset that can be looked into from here, asked for once a moment."""
    try:
        return sorted({own.folder.resolve() for own in noted_trainings(dataset) if own.is_here})
    except OSError:  # the store is away; the page shows those it is told of, and asks again
        return []


def folders(site: Site) -> dict[str, Path]:
    """Run folders by the name that pages know them by."""
    found: dict[str, Path] = {}
    candidates = list(site.runs)
    if storage.is_local(site.dataset.filesystem):
        candidates += sorted((Path(site.dataset.root) / "training").glob("*"))
    known = {path.resolve() for path in candidates}
    candidates += [
        path for path in _elsewhere(site.dataset, int(time.monotonic() / NOTES_S)) if path not in known
    ]
    for path in candidates:
        if any((path / name).is_file() for name in _OWN):
            name, number = path.resolve().name, 2
            while name in found:
                name, number = f"{path.resolve().name}-{number}", number + 1
            found[name] = path
    return found


def read_json(path: Path) -> dict[str, Any]:
    """An object in a file; empty where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Lines:
    """The rows of a growing file, each read once."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset, self._identity = path, 0, (0, 0)

    def new(self) -> Iterator[dict[str, Any] | None]:
        """Rows since the last call; None first where the file was begun anew or cut, as a resume does."""
        try:
            stat = self.path.stat()
        except OSError:
            return
        identity = (stat.st_dev, stat.st_ino)
        if stat.st_size < self._offset or (self._offset and identity != self._identity):
            self._offset = 0
            yield None
        self._identity = identity
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    yield row


def _is_validation(row: dict[str, Any]) -> bool:
    """Whether a line says what one may be shown: a step, and the loss of all."""
    scores = row.get("scores")
    whole = scores.get("all") if isinstance(scores, dict) else None
    losses = [row.get("step"), whole.get("loss") if isinstance(whole, dict) else None]
    return all(isinstance(number, (int, float)) for number in losses)


@dataclass
class Run:
    """One training, followed."""

    name: str
    path: Path
    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    validation: list[dict[str, Any]] = field(default_factory=list)
    shown: Counter[str] = field(default_factory=Counter)
    """Times that each clip was read."""
    by_epoch: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    loss_of: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    """Of each clip: sum of the loss of the steps that read it, and their number."""
    steps_of: dict[str, deque[int]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=_MOST_STEPS))
    )
    """The last ones."""
    last_epoch: int = -1
    _files: dict[str, Lines] = field(default_factory=dict)
    _smooth: float | None = None

    def look(self) -> None:
        """Read what has been written since."""
        for row in self._file("metrics.jsonl").new():
            if row is None:
                self.metrics.clear()
                self._smooth = None
                continue
            self._take(row)
        for row in self._file("validation.jsonl").new():
            if row is None:
                self.validation.clear()
            elif _is_validation(row):
                self.validation.append(row)

    def _file(self, name: str) -> Lines:
        return self._files.setdefault(name, Lines(self.path / name))

    def _take(self, row: dict[str, Any]) -> None:
        step = len(self.metrics["step"])
        flat = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        by = row.get("loss_by")
        flat |= {f"loss_by/{name}": value for name, value in by.items()} if isinstance(by, dict) else {}
        loss = flat.get("loss", math.nan)
        if math.isfinite(loss):
            self._smooth = loss if self._smooth is None else self._smooth + SMOOTHING * (loss - self._smooth)
        flat["loss_smooth"] = self._smooth if self._smooth is not None else math.nan
        for name in flat.keys() | self.metrics.keys():
            column = self.metrics[name]
            column.extend([math.nan] * (step - len(column)))
            value = flat.get(name, math.nan)
            column.append(float(value) if isinstance(value, (int, float)) else math.nan)

    def look_at_consumed(self) -> None:
        """Read which clips were shown since."""
        loss = dict(zip(self.metrics["step"], self.metrics["loss"], strict=False))
        paths = sorted(self.path.glob("consumed*.jsonl"))
        are_whole = [self._read_consumed(path, loss) for path in paths]
        if not all(are_whole):
            for held in (self.shown, self.by_epoch, self.loss_of, self.steps_of):
                held.clear()
            for path in paths:  # a resume has cut one: what was counted of the others goes with it
                self._files.pop(path.name, None)
                self._read_consumed(path, loss)

    def _read_consumed(self, path: Path, loss: dict[float, float]) -> bool:
        """Count what a file has new; False where it was cut or begun anew."""
        for row in self._file(path.name).new():
            if row is None:
                return False
            own = loss.get(row["step"], math.nan)
            for clip_id, *_ in row.get("samples", []):
                self.shown[clip_id] += 1
                self.by_epoch[clip_id, row.get("epoch", 0)] += 1
                self.last_epoch = max(self.last_epoch, int(row.get("epoch", 0)))
                self.steps_of[clip_id].append(row["step"])
                if math.isfinite(own):
                    self.loss_of[clip_id][0] += own
                    self.loss_of[clip_id][1] += 1
        return True

    def epochs_of(self, clip_id: str) -> list[int]:
        """In which epochs a clip was read."""
        return [epoch for epoch in range(self.last_epoch + 1) if (clip_id, epoch) in self.by_epoch]

    def series(self, names: list[str], by: str = "step", most: int = MOST_POINTS) -> dict[str, list[Any]]:
        """Columns for a chart; of many steps the least, the mean and the most of each bucket.

        Args:
            by: step, epoch or time: what `x` is.
        """
        x = {"time": "time_s", "epoch": "epoch"}.get(by, "step")
        axis = self.metrics.get(x, self.metrics["step"])
        if by == "epoch":
            axis = self._epochs()
        step = max(1, -(-len(axis) // most))
        found: dict[str, list[Any]] = {"x": [axis[at] for at in range(0, len(axis), step)]}
        for name in names:
            column = self.metrics.get(name, [])
            for what in ("mean", "low", "high") if step > 1 else ("mean",):
                found[name if what == "mean" else f"{name}:{what}"] = [
                    _of(column[at : at + step], what) for at in range(0, len(axis), step)
                ]
        return found

    def _epochs(self) -> list[float]:
        """The epoch of each step, with the share of it that is done."""
        epochs = self.metrics.get("epoch", [])
        first: dict[float, int] = {}
        for at, epoch in enumerate(epochs):
            first.setdefault(epoch, at)
        begins = sorted(first.values())
        found = []
        for at, epoch in enumerate(epochs):
            begin = first[epoch]
            later = next((other for other in begins if other > begin), None)
            length = (
                (later - begin)
                if later
                else max(len(epochs) - begin, begin - (begins[-2] if len(begins) > 1 else 0))
            )
            found.append(epoch + (at - begin) / max(1, length))
        return found

    def last(self) -> dict[str, float | None]:
        """The newest value of each measure."""
        found = {}
        for name, column in self.metrics.items():
            value = next((value for value in reversed(column[-50:]) if math.isfinite(value)), None)
            found[name] = value
        return found

    def held_out(self) -> set[str]:
        """The sources that it holds out for validation."""
        try:
            return set(map(str, json.loads((self.path / "held-out.json").read_text())))
        except (OSError, ValueError, TypeError):
            return set()

    def samples(self) -> list[dict[str, Any]]:
        """Samples by step, oldest first."""
        found = []
        for folder in sorted((self.path / "samples").glob("step-*")):
            if folder.is_dir() and (match := _STEP.match(folder.name)):
                records = [read_json(path) for path in sorted(folder.glob("*.json"))]
                rows = [row for row in records if _FILE.match(str(row.get("file", "")))]
                found.append({"step": int(match[1]), "samples": rows})
        return found

    def sample_file(self, step: int, name: str) -> Path | None:
        """The file of a sample; None where there is none of that name."""
        path = self.path / "samples" / f"step-{step:08d}" / name
        return path if _FILE.match(name) and path.is_file() and not path.is_symlink() else None


def _of(values: list[float], what: str) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    return {"mean": sum(known) / len(known), "low": min(known), "high": max(known)}[what]


_held: dict[Path, Run] = {}
LOCK = threading.RLock()
"""Held by a page while it reads runs: they grow under it."""


def run_of(site: Site, name: str) -> Run | None:
    """The run of a name, read up to now."""
    path = folders(site).get(name)
    if path is None:
        return None
    with LOCK:
        run = _held.setdefault(path, Run(name, path))
        run.name = name
        run.look()
    return run


def read_of(site: Site, clip_ids: Collection[str], most: int = 12) -> list[dict[str, Any]]:
    """Of each training of this dataset: which of some clips it read, how often, and at which steps last."""
    found = []
    for about in runs(site):
        run = run_of(site, about["name"])
        if run is None or about["dataset"] not in (site.dataset.uri, site.dataset.address):
            continue
        with LOCK:
            run.look_at_consumed()
            own = [clip_id for clip_id in clip_ids if run.shown[clip_id]]
            steps = sorted({step for clip_id in own for step in run.steps_of[clip_id]})
            losses = [run.loss_of[clip_id] for clip_id in own if clip_id in run.loss_of]
            times = sum(run.shown[clip_id] for clip_id in own)
            epochs = sorted({epoch for clip_id in own for epoch in run.epochs_of(clip_id)})
        count = sum(number for _, number in losses)
        found.append(
            {
                "name": about["name"],
                "clips": len(own),
                "of": len(clip_ids),
                "times": times,
                "epochs": epochs,
                "steps": steps[-most:],
                "num_steps": len(steps),
                "loss": sum(total for total, _ in losses) / count if count else None,
            }
        )
    return found


def runs(site: Site) -> list[dict[str, Any]]:
    """All runs, with what they read and their newest measures."""
    found = []
    for name, path in folders(site).items():
        run = run_of(site, name)
        if run is None:
            continue
        record, config = read_json(path / "run.json"), read_json(path / "config.json")
        sessions = record.get("sessions", [])
        last = run.last()
        found.append(
            {
                "name": name,
                "dataset": record.get("dataset", ""),
                "view": record.get("view", ""),
                "preset": config.get("preset", ""),
                "steps": config.get("steps"),
                "step": int(newest) + 1 if (newest := last.get("step")) is not None else 0,
                "last": last,
                "sessions": sessions,
                "started_s": sessions[0]["started_s"] if sessions else None,
                "ended_s": sessions[-1]["ended_s"] if sessions else None,
                "validation": run.validation[-1] if run.validation else None,
            }
        )
    return found
