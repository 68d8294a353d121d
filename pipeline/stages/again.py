"""Items that need not be made again: what a shard's column held of them before it was taken back."""

from __future__ import annotations

from collections import defaultdict

from manifests.errors import IntegrityError
from manifests.layout import Column, Dataset
from manifests.writing.withdrawn import Withdrawn


class Again:
    """What a stage may copy, by clip, where its column was made before.

    A clip is copied where it did not fail and where the rows it was made from are those of now. Where the
    column was never made, nothing is.
    """

    def __init__(
        self, dataset: Dataset, column: Column, shard: int, inputs: Column, table: str, rows: list[dict]
    ) -> None:
        """
        Args:
            inputs: the column that the stage reads.
            table: the table of it that decides what is made.
            rows: that table's rows of the shard, as they are now.
        """
        self.before = Withdrawn(dataset, column, shard)
        self._attempts = {row["item_id"]: row["attempt"] for row in self.before.rows("failures")}
        earlier = Withdrawn(dataset, inputs, shard)
        now, then = by_clip(rows), by_clip(earlier.rows(table)) if earlier else None
        self._same = (
            {clip_id for clip_id in now if then is None or then.get(clip_id) == now[clip_id]}
            if self.before
            else set()
        )

    def is_kept(self, clip_id: str) -> bool:
        return clip_id in self._same and clip_id not in self._attempts

    def is_same(self, clip_id: str) -> bool:
        """Whether what was made of a clip before was made of what it is now, whatever failed of it."""
        return clip_id in self._same

    def attempt(self, clip_id: str) -> int:
        """Which attempt at the clip this is: 1 for the first."""
        return int(self._attempts.get(clip_id, 0)) + 1

    def rows(self, name: str) -> dict[str, list[dict]]:
        """Rows of a table of the clips that are kept."""
        return {key: rows for key, rows in by_clip(self.before.rows(name)).items() if self.is_kept(key)}

    def members(self, clip_id: str) -> list[tuple[str, bytes]] | None:
        """Members of a clip that is kept; None where it must be made again, or they are damaged."""
        if not self.is_kept(clip_id):
            return None
        try:
            return self.before.members(clip_id)
        except (IntegrityError, OSError):
            return None


def by_clip(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows by their clip, in stored order."""
    found: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        found[row["clip_id"]].append(row)
    return dict(found)
