"""Verdicts of people on captions: kept outside the dataset, one a line, and what they come to."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from manifests.errors import UsageError
from manifests.intervals import wilson
from manifests.layout import Dataset
from manifests.store import storage
from manifests.text import valid
from manifests.verdicts import VERDICTS, latest

_MOST_NAME = 80
TAGS = ("subject", "action", "camera", "count", "text", "invented")
Expected = float | Literal["any"] | None
ANY: Literal["any"] = "any"
CHOICES = ("left", "right", "alike", "unsure")
"""Between two captions of a clip."""


def name_of(who: Any) -> str:
    """The name that a person's verdicts are kept under, of what was typed."""
    return valid(str(who or "")).strip()[:_MOST_NAME].strip() or "me"


@dataclass
class Verdicts:
    """The file of verdicts.

    Raises:
        UsageError: it lies in the dataset, or cannot be written.
    """

    path: Path
    dataset: Dataset

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        inside = storage.is_local(self.dataset.filesystem) and self.path.resolve().is_relative_to(
            Path(self.dataset.root).resolve()
        )
        if inside:
            raise UsageError(f"--verdicts {self.path}", "lies in the dataset", "Name a file elsewhere.")
        if self.path.is_dir():
            raise UsageError(f"--verdicts {self.path}", "is a folder", "Name a file.")
        self._write("")

    def rows(self) -> list[dict[str, Any]]:
        """All verdicts, the last of each person on each caption; what was undone is not among them."""
        return latest(self._lines())

    def choices(self) -> list[dict[str, Any]]:
        """All choices between two versions, the last of each person on each clip and pair of versions."""
        found: dict[tuple[str, str, str], dict[str, Any]] = {}
        for line in self._lines():
            try:
                row = json.loads(line)
                place = str(row["who"]), str(row["clip_id"]), "|".join(row["versions"])
                found[place] = {**row, "choice": str(row["choice"]), "better": str(row["better"])}
            except (ValueError, KeyError, TypeError):  # a verdict on one caption, or a line that was cut
                continue
        return [row for row in found.values() if row["choice"] != "undone"]

    def _lines(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            why = f"cannot be read ({error.strerror})"
            raise UsageError(f"--verdicts {self.path}", why, "Name a file that can be.") from error

    def choose(self, row: dict[str, Any], expects: Expected = ANY) -> float | None:
        """Append a choice.

        Returns, Raises:
            As `add`.
        """
        of = (row["who"], row["clip_id"], row["versions"])
        return self._append(
            row, expects, lambda own: (own["who"], own.get("clip_id"), own.get("versions")) == of
        )

    def add(self, row: dict[str, Any], expects: Expected = ANY) -> float | None:
        """Append one.

        Args:
            expects: when the person's verdict on it was kept that is known to who judges; None: there is
                none yet.

        Returns:
            When it was kept; None where the person has judged it otherwise in the meantime, in another tab.

        Raises:
            UsageError: it is none, or the file cannot be written.
        """
        if row.get("verdict") not in (*VERDICTS, "undone"):
            raise UsageError("verdict", f"is none of {', '.join(VERDICTS)}", "Press 1, 2, 3 or 4.")
        if unknown := set(row.get("tags") or ()) - set(TAGS):
            raise UsageError("tags", f"{sorted(unknown)} are none", f"There are: {', '.join(TAGS)}.")
        of = (row["who"], row["caption_id"])
        return self._append(row, expects, lambda own: (own["who"], own.get("caption_id")) == of)

    def _append(
        self, row: dict[str, Any], expects: Expected, is_own: Callable[[dict[str, Any]], bool]
    ) -> float | None:
        """Append a row, unless the last one of the same kind is another than is expected."""
        with self._lock:
            if expects != ANY and self._kept_s(is_own) != expects:
                return None
            time_s = round(time.time(), 3)
            self._write(json.dumps({"time_s": time_s, **row}) + "\n")
        return time_s

    def _kept_s(self, is_own: Callable[[dict[str, Any]], bool]) -> float | None:
        """When the last of some verdicts was kept; None where there is none, or it was undone."""
        found = None
        for line in self._lines():
            try:
                own = json.loads(line)
                if is_own(own):  # one whose word is none counts for nobody
                    is_one = own.get("verdict") in VERDICTS or own.get("choice") in CHOICES
                    found = float(own["time_s"]) if is_one else None
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        return found

    def _write(self, text: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            why = f"cannot be written ({error.strerror})"
            raise UsageError(f"--verdicts {self.path}", why, "Name a file that can be.") from error


def rates(rows: list[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """Share of captions that are wrong, by stratum or by version; the unsure do not count."""
    groups: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["verdict"] != "unsure":
            groups[str(row.get(by, ""))].append(row["verdict"])
    found = []
    for name, verdicts in sorted(groups.items()):
        wrong = verdicts.count("wrong")
        low, high = wilson(wrong, len(verdicts))
        found.append({"name": name, "count": len(verdicts), "wrong": wrong, "low": low, "high": high})
    return found


def agreement(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Captions that two people judged, and of how many they said the same."""
    said: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        said[row["caption_id"]].append(row["verdict"])
    both = [verdicts for verdicts in said.values() if len(verdicts) > 1]
    return len(both), sum(len(set(verdicts)) == 1 for verdicts in both)
