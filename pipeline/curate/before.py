"""Segments that need not be cut again: what the column held of them before it was taken back."""

from __future__ import annotations

from collections import defaultdict

from manifests.errors import IntegrityError
from manifests.writing.withdrawn import Withdrawn


class Before:
    """The rows of a taken-back commit, by segment; empty where nothing was taken back."""

    def __init__(self, withdrawn: Withdrawn) -> None:
        self._withdrawn = withdrawn
        self.clips, self.drops = defaultdict[str, list[dict]](list), defaultdict[str, list[dict]](list)
        for row in withdrawn.rows("clips"):
            self.clips[row["segment_id"]].append(row)
        for row in withdrawn.rows("drops"):
            self.drops[_segment(row)].append(row)
        self.hashes = {row["clip_id"]: row for row in withdrawn.rows("hashes")}
        self._attempts = {_segment(row): row["attempt"] for row in withdrawn.rows("failures")}

    def attempt(self, segment_id: str) -> int:
        """Which attempt at the segment this is: 1 for the first."""
        return int(self._attempts.get(segment_id, 0)) + 1

    def members(self, segment: dict) -> list[tuple[str, bytes]] | None:
        """Tar members of a segment of which nothing failed; None where it must be cut again.

        That is also where its file lies elsewhere now, or its members are damaged.
        """
        name = segment["segment_id"]
        rows = self.clips[name] + self.drops[name]
        if not rows or name in self._attempts or any(row["uri"] != segment["uri"] for row in rows):
            return None
        try:
            return [member for row in self.clips[name] for member in self._withdrawn.members(row["clip_id"])]
        except (IntegrityError, OSError):
            return None


def _segment(row: dict) -> str:
    return str(row["item_id"]).partition("/")[0]
