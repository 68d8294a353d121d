"""Which of a set of matching clips is kept, and which stand behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from media.measure.videohash import SAME

LOOSE = 1.4 * SAME
"""A clip this near to the kept one joins its group too if it matches a member that matches the kept one: no
chain goes further."""
COMPONENT_CAP = 256
"""Linked sets up to this size are compared in full with the clip kept; in larger ones the pairs found must
do."""


@dataclass(frozen=True)
class Quality:
    """What decides which clip of a group is kept (`best`)."""

    pixels: int = 0
    duration_s: float = 0.0
    sharpness: float = 0.0


NEARLY_AS_LONG = 0.8
"""Share of a clip's seconds that another must have to stand for it: a part never replaces the whole."""
NEARLY_AS_LARGE, NEARLY_AS_SHARP = 0.9, 0.8
"""Shares of the most pixels and of the most sharpness from which more of them is no gain."""


def best(clips: Sequence[str], quality: Mapping[str, Quality]) -> str:
    """The clip to keep among some that are nearly as long as each other.

    Of those with nearly the most pixels, and of these nearly the sharpest, the one with most seconds; then
    the sharpest, then the smallest id.
    """
    known = {clip_id: quality.get(clip_id, Quality()) for clip_id in clips}
    pixels = max(one.pixels for one in known.values())
    known = {key: one for key, one in known.items() if one.pixels >= NEARLY_AS_LARGE * pixels}
    sharpness = max(one.sharpness for one in known.values())
    known = {key: one for key, one in known.items() if one.sharpness >= NEARLY_AS_SHARP * sharpness}
    return min(known, key=lambda key: (-known[key].duration_s, -known[key].sharpness, key))


@dataclass(frozen=True)
class Group:
    """Two or more clips of one content.

    `distances` are those of `others` from `kept`, each at most `LOOSE` (nan: matched by embedding alone).
    """

    kept: str
    others: list[str]
    distances: list[float]


@dataclass
class Report:
    """What a search did, so that no limit acts in silence."""

    clips: int = 0
    keys: int = 0
    capped_buckets: int = 0
    comparisons_left_out: int = 0
    candidates: int = 0
    matches: int = 0
    largest_bucket: int = 0

    def add(self, other: Report) -> None:
        """What a part of the search did."""
        self.keys += other.keys
        self.capped_buckets += other.capped_buckets
        self.comparisons_left_out += other.comparisons_left_out
        self.largest_bucket = max(self.largest_bucket, other.largest_bucket)


def group(
    pairs: Mapping[tuple[str, str], float],
    quality: Mapping[str, Quality],
    measure: Callable[[str, str], float] | None = None,
) -> list[Group]:
    """Groups of matching clips: of the longest not yet in a group and those nearly as long that match it, the
    best is kept and takes its matches. So a clip is only ever left out for one that shows all of it.

    Args:
        pairs: distance of each matching pair (smaller id first).
        quality: of each clip; a clip without one has the least.
        measure: distance of any two clips; asked for the pairs of a linked set that are not among `pairs`.
    """
    neighbours: dict[str, dict[str, float]] = {}
    for (one, two), gap in pairs.items():
        neighbours.setdefault(one, {})[two] = gap
        neighbours.setdefault(two, {})[one] = gap
    groups, seen = [], set()
    for seed in sorted(neighbours):
        if seed in seen:
            continue
        linked, todo = {seed}, [seed]
        while todo:
            fresh = [clip_id for clip_id in neighbours[todo.pop()] if clip_id not in linked]
            linked.update(fresh)
            todo += fresh
        seen |= linked
        is_small = len(linked) <= COMPONENT_CAP
        ranked = sorted(linked, key=lambda clip_id: (-_duration_s(quality, clip_id), clip_id))
        free = dict.fromkeys(ranked)
        for longest in ranked:
            if longest not in free:
                continue
            least_s = NEARLY_AS_LONG * _duration_s(quality, longest)
            peers = [
                clip_id
                for clip_id in neighbours[longest]
                if clip_id in free and _duration_s(quality, clip_id) >= least_s
            ]
            kept = best([longest, *peers], quality)
            del free[kept]
            members = {clip_id: gap for clip_id, gap in neighbours[kept].items() if clip_id in free}
            if measure is not None and is_small:
                asked = {clip_id: measure(kept, clip_id) for clip_id in free if clip_id not in members}
                members |= {clip_id: gap for clip_id, gap in asked.items() if gap <= SAME}
                ring = {
                    clip_id: gap
                    for clip_id, gap in asked.items()
                    if SAME < gap <= LOOSE and neighbours[clip_id].keys() & members.keys()
                }
                members |= ring
            for clip_id in members:
                del free[clip_id]
            if members:
                groups.append(Group(kept, sorted(members), [members[clip_id] for clip_id in sorted(members)]))
    return sorted(groups, key=lambda found: found.kept)


def _duration_s(quality: Mapping[str, Quality], clip_id: str) -> float:
    return quality.get(clip_id, Quality()).duration_s
