"""Frames in doubt: damage that the decoder did not report.

Seen in four ways: the next keyframe mends the picture; blocks break off it; what came next was lost; in a
file that is hurt elsewhere, one frame is unlike those around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from media.damage.healing import MAX_FRAMES, alone, broken_from, is_whole
from media.damage.signs import Signs
from media.errors import MediaError
from pipeline.curate.sampling import Sample

Seen = tuple[Sample, np.ndarray]
"""A frame's sample and its glance."""
_RECENT, _FEWEST = 8, 3
"""Frames whose edges tell what is usual, and how many of them are needed."""
_UNUSUAL = 2.0
"""New edges are unusual at so many times the most of recent frames."""
_MENDED, _LAST, _SAME = 1.0, 5, 20 / 255
"""The keyframe and the last frames before it, which may lean on it, must take so many edges away again, in
all, and be so much alike: other things that come and go do so where it suits them."""


_GARBLED = {"av1"}
"""Codecs whose decoders may garble one frame without a word, on which those around it do not lean."""


class Edges:
    """Tells from edges on the coding grid where blocks break off, group by group."""

    def __init__(self, finds_single: bool = False) -> None:
        self.finds_single = finds_single
        self._recent = deque[float]([], _RECENT)
        self._gone = deque[float]([], 4)
        self.is_hurt = False

    def broken_from(self, group: Sequence[Sample], key: Sample | None) -> int | None:
        """The first broken frame from one keyframe to the next; None where nothing breaks.

        Args:
            key: the next keyframe; without it there is no proof, but that the file is hurt elsewhere.
        """
        first = None
        for place, sample in enumerate(group):
            edges, most = sample.signs.edges[0], max(self._recent, default=0.0)
            is_known = len(self._recent) >= _FEWEST and not sample.signs.is_key
            if first is None and is_known and edges > max(1.0, _UNUSUAL * most):
                first = place
            self._recent.append(edges if first is None else min(edges, self._recent[-1]))
        sure = [sample.signs for sample in group if not sample.signs.is_by_gap]
        self.is_hurt |= any(own.is_damaged or own.is_after_loss or own.num_refused for own in sure)
        if key is None or not group:
            return first if self.is_hurt else None
        gone = sum(max(0.0, sample.signs.edges[1]) for sample in [*group[1:][-_LAST:], key])
        usual = max(self._gone, default=gone)
        self._gone.append(gone)
        is_mended = gone > max(_MENDED, _UNUSUAL * usual) and key.change < _SAME
        return first if is_mended or self.is_hurt else None


def judged(stream: Iterator[Seen], codec: str = "") -> Iterator[Seen]:
    """The same frames, those marked as damaged that are in doubt; up to a group of frames late.

    Where the stream ends in an error, the frames in hand are given out before it is raised.
    """
    held, edges, is_broken = list[Seen](), Edges(codec in _GARBLED), False
    try:
        for item in stream:
            if item[0].signs.is_key or len(held) == MAX_FRAMES:
                held = _with_doubt(held, edges, is_broken, item if item[0].signs.is_key else None)
                is_broken = not item[0].signs.is_key and held[-1][0].signs.is_damaged
                yield from held
                held = []
            held.append(item)
    except Exception as error:
        if held and isinstance(error, MediaError) and error.reason == "lost_packets":
            held[-1] = _doubtful(held[-1])
        yield from _with_doubt(held, edges, is_broken)
        raise
    yield from _with_doubt(held, edges, is_broken)


def _misplaced(signs: Sequence[Signs], is_hurt: bool) -> set[int]:
    """Places of frames that may show another picture in the place of their own, which was refused.

    Args:
        signs: of the frames from one keyframe to the next, and of that.
        is_hurt: something of the file was lost, here or before.
    """
    found = {place for place, own in enumerate(signs) if own.is_stand_in} if is_hurt else set[int]()
    lost = {place for place, own in enumerate(signs) if own.num_refused}
    return found | {place for place in lost if place + 1 in lost}


def _doubtful(item: Seen) -> Seen:
    return replace(item[0], signs=replace(item[0].signs, is_damaged=True)), item[1]


def _paused(item: Seen) -> Seen:
    """A frame that nothing but a gap in time spoke against."""
    if item[0].signs.is_key or not item[0].signs.is_by_gap:
        return item
    return replace(item[0], signs=replace(item[0].signs, is_damaged=False, is_after_loss=False)), item[1]


def _with_doubt(held: list[Seen], edges: Edges, is_broken: bool, after: Seen | None = None) -> list[Seen]:
    """Args: is_broken: from the first one on. after: the keyframe that comes next."""
    if (
        after is not None
        and not (is_broken or edges.finds_single)
        and is_whole([glance for _, glance in held], after[1])
    ):
        held = [_paused(item) for item in held]
    found = [edges.broken_from([sample for sample, _ in held], after and after[0])]
    mended = None if after is None else broken_from([glance for _, glance in held], after[1])
    found += [] if mended is None or held[mended][0].signs.is_intra else [mended]  # a cut that is no keyframe
    found += [0] if is_broken else []
    first = min((place for place in found if place is not None), default=len(held))
    signs = [sample.signs for sample, _ in [*held, *([after] if after else [])]]
    misplaced = _misplaced(signs, edges.is_hurt or signs[-1].num_refused > 0) if signs else set[int]()
    held = [_doubtful(item) if place in misplaced else item for place, item in enumerate(held)]
    sure, glances = held[:first], [glance for _, glance in [*held, *([after] if after else [])]]
    for place in range(1, min(first, len(glances) - 1)) if edges.is_hurt and edges.finds_single else ():
        if alone(*glances[place - 1 : place + 2]):
            sure[place] = _doubtful(sure[place])
    return [*sure, *map(_doubtful, held[first:])]
