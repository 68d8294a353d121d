"""Frames in doubt: damage that the decoder did not report.

Seen in three ways: the next keyframe mends the picture; another picture may stand in the place of one
that was lost; in a file that is hurt elsewhere, one frame is unlike those around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from media.damage.healing import MAX_FRAMES, QUIET, alone, broken_from, is_whole
from media.damage.signs import Signs
from media.errors import MediaError
from pipeline.curate.sampling import Sample

Seen = tuple[Sample, np.ndarray]
"""A frame's sample and its glance."""

_GARBLED = {"av1"}
"""Codecs whose decoders may build a frame on another than its own, on which those around it do not lean."""


_OF_VPX = {"vp8", "vp9"}
"""Codecs of which a lost picture shows at the next keyframe, however much moves."""


def judged(stream: Iterator[Seen], codec: str = "") -> Iterator[Seen]:
    """The same frames, those marked as damaged that are in doubt; up to a group of frames late.

    Where the stream ends in an error, the frames in hand are given out before it is raised.
    """
    held, doubt = list[Seen](), _Doubt(codec in _GARBLED, np.inf if codec in _OF_VPX else QUIET)
    try:
        for item in stream:
            if item[0].signs.is_key or len(held) == MAX_FRAMES:
                yield from doubt.of(held, item if item[0].signs.is_key else None)
                held = []
            held.append(item)
    except Exception as error:
        if held and isinstance(error, MediaError) and error.reason == "lost_packets":
            held[-1] = _doubtful(held[-1])
        yield from doubt.of(held)
        raise
    yield from doubt.of(held)


class _Doubt:
    """What was found of a stream so far.

    Args:
        most_moved: as for `is_whole`.
        is_garbled: its decoder may build a frame on another than its own, on which those around do not lean.
    """

    def __init__(self, is_garbled: bool, most_moved: float) -> None:
        self._is_garbled, self._most_moved = is_garbled, most_moved
        self._is_hurt = False  # somewhere before, or here
        self._before: np.ndarray | None = None  # the last glance of the group before

    def of(self, held: list[Seen], after: Seen | None = None) -> list[Seen]:
        """Args: held: the frames from one keyframe on. after: the keyframe that comes next."""
        glances = [glance for _, glance in held]
        if after is not None and not self._is_garbled and is_whole(glances, after[1], self._most_moved):
            held = [_paused(item) for item in held]
        signs = [sample.signs for sample, _ in [*held, *([after] if after else [])]]
        sure = [own for own in signs if not own.is_by_gap]
        self._is_hurt |= any(_is_hurt(own) for own in sure)
        first = len(held)
        mended = None if after is None else broken_from(glances, after[1], self._before)
        self._before = glances[-1] if glances else self._before
        if mended is not None and not held[mended][0].signs.is_intra:  # else a cut that is no keyframe
            first = mended
        misplaced = _misplaced(signs, self._is_hurt)
        if self._is_garbled and any(map(_is_hurt, signs)):
            misplaced |= _unlike([*glances, *([after[1]] if after else [])])
        return [
            _doubtful(item) if place >= first or place in misplaced else item
            for place, item in enumerate(held)
        ]


def _is_hurt(own: Signs) -> bool:
    return bool(own.is_damaged or own.is_after_loss or own.num_refused)


def _unlike(glances: Sequence[np.ndarray]) -> set[int]:
    """Places of frames that are unlike those on both sides."""
    return {place for place in range(1, len(glances) - 1) if alone(*glances[place - 1 : place + 2])}


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
