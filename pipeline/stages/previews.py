"""The preview frames of a shard's clips, as the stages after curation look at them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from manifests.layout import Column, Dataset
from manifests.store.shards import Member
from manifests.tables import records


def preview_frames(dataset: Dataset, column: Column, shard: int) -> tuple[str, dict[str, list[Member]]]:
    """The tar of a shard's previews, and of each clip the members that are frames, in order of time."""
    tar, members = records.members_of_shard(dataset, column, shard)
    found = defaultdict[str, list[Member]](list)
    for member in members:
        if member.field.startswith("frame"):
            found[member.key].append(member)
    return tar, found


def spread_members(members: list[Member], count: int) -> list[Member]:
    """At most `count` of the members, the first and the last among them.

    Raises:
        ValueError: there is none.
    """
    if not members:
        raise ValueError("the clip has no previews")
    return [members[index] for index in np.unique(np.linspace(0, len(members) - 1, count).astype(int))]
