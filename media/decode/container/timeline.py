"""When the packets of a video are shown, and where others are missing between them."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

MAX_KEY_INTERVAL_S = (
    12.0  # decord decodes, and holds, all from the keyframe before; further apart, memory and time run away
)
GAP_S, GAP_STEPS = 1.0, 10.0  # a step between frames over both is a gap
LOST_FRAMES = "lost_frames"
"""Frames are missing from a stream whose decoder builds on others without a word."""
HOLES, HOLE_S = "holes", 0.5
"""Before a keyframe of an even stream nothing comes for so long: a piece may be gone."""
PAGES_LOST = "pages_lost"
"""Checksums of an Ogg file say that pages of it are damaged, which are left out."""
REPEATED_TIMES = "repeated_times"
"""Several packets say the same time; the time up to the next one is theirs in equal parts."""
DEFAULT_FPS = 24.0
_MOST_PLACES = 1024  # in a group of MPEG
_FEW_STEPS, MOST_REORDERED = 24, 16
_MOST_MISSING = 0.02
"""Share of steps; with more of them frames were left out on purpose."""


@dataclass
class Packets:
    """What the pass saw.

    Attributes:
        times_s: ascending presentation times of shown packets, from the first one.
        num_packets: packets that show a frame.
        warnings: short stable words, each once.
        gap_s, gap_at_s: the longest step between shown packets, if it is a gap, and where.
        missing_s: times of frames before which others are missing (`LOST_FRAMES`), and of keyframes after
            `HOLES`.
        is_rising: no packet is shown before the one before it.
        end_bytes: where the last packet ends in the file, as far as its container tells.
    """

    times_s: np.ndarray
    first_s: float
    last_duration_s: float
    num_packets: int
    warnings: list[str]
    gap_s: float = 0.0
    gap_at_s: float = 0.0
    missing_s: list[float] = field(default_factory=list)
    is_rising: bool = False
    end_bytes: int = 0


@dataclass
class Shown:
    """Packets of one run of the stream's clock, in ticks."""

    pts: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    places: list[int | None] = field(default_factory=list)
    """In their groups, of MPEG-1 and MPEG-2."""
    keys: list[int] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    """Places of packets before which a reference picture is missing."""
    maybe: list[int] = field(default_factory=list)
    """The same where it may be that numbering began anew: a gap in time tells."""


def summary(runs: list[Shown], base: Fraction, num: int, notes: Counter[str], is_by_time: bool) -> Packets:
    """What was seen.

    Args:
        is_by_time: gaps in an even stream are the only sign of packets that are missing.
    """
    if not runs:
        return Packets(np.zeros(0), 0.0, 1 / DEFAULT_FPS, num, list(notes))
    tick = float(base)
    for seen in runs:
        if np.diff([*sorted(seen.keys), max(seen.pts)]).max(initial=0) * tick > MAX_KEY_INTERVAL_S:
            notes["sparse_keyframes"] += 1
        if len(seen.pts) != len(set(seen.pts)):
            notes[REPEATED_TIMES] += 1
    steps = np.diff(np.sort(np.array(runs[0].pts, np.int64)))
    step = int(np.median(steps[steps > 0])) if (steps > 0).any() else 0
    pieces, missing_ticks, keys = list[np.ndarray](), set[int](), set[int]()
    for seen in runs:  # a later run goes on one step after the run before it
        ordered = np.sort(np.array(seen.pts, np.int64))
        begin = int(pieces[-1][-1]) + step if pieces else 0
        pieces.append(ordered - ordered[0] + begin)
        shift = begin - int(ordered[0])
        late = set(ordered[_missing(ordered, step)].tolist()) if seen.maybe and step else set()
        lost = [place for place in seen.maybe if not late.isdisjoint(_built_on_gaps(seen.pts, [place]))]
        sure = [*seen.gaps, *lost]
        missing_ticks.update(tick + shift for tick in _built_on_gaps(seen.pts, sure))
        keys.update(tick + shift for tick in seen.keys)
    ticks = np.concatenate(pieces)
    last = runs[-1].durations[int(np.argmax(runs[-1].pts))] * tick
    gaps = np.diff(ticks) * tick
    usual = float(
        np.median(runs[-1].durations)
    )  # of a tick each, as in Matroska without them, they say nothing
    last_s = last if 0 < last < 10 and usual > step / 2 else (step * tick or 1 / DEFAULT_FPS)
    times_s, last_s = _spread(ticks * tick, last_s) if notes[REPEATED_TIMES] else (ticks * tick, last_s)
    found = Packets(
        times_s=np.round(times_s, 6),
        first_s=min(runs[0].pts) * tick,
        last_duration_s=last_s,
        num_packets=num,
        warnings=list(notes),
    )
    is_known = PAGES_LOST in notes
    places = _missing(ticks, step, is_known=is_known) if step else np.zeros(0, np.int64)
    if is_by_time and len(runs) == 1:
        places = _left_out(runs[0], places)
    missing_ticks.update(ticks[places].tolist() if is_by_time else ())
    holes = set(ticks[places[gaps[places - 1] > HOLE_S]].tolist()) & keys - missing_ticks
    found.warnings += [LOST_FRAMES] if missing_ticks else [HOLES] if holes else []
    found.missing_s = [round(own * tick, 6) for own in sorted(missing_ticks | holes)]
    if len(gaps) and gaps.max() > max(GAP_S, GAP_STEPS * step * tick):
        found.gap_s, found.gap_at_s = float(gaps.max()), float(found.times_s[int(gaps.argmax())])
    return found


def _spread(times_s: np.ndarray, last_s: float) -> tuple[np.ndarray, float]:
    """Ascending times [n], those that are equal spread up to the next one; and the last one's length."""
    own, counts = np.unique(times_s, return_counts=True)
    lengths = np.diff(own) / counts[:-1]
    lengths = np.append(lengths, np.median(lengths) if len(lengths) else last_s)  # behind the last is room
    places = np.arange(len(times_s)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(own, counts) + places * np.repeat(lengths, counts), float(lengths[-1])


def _built_on_gaps(pts: list[int], gaps: list[int]) -> list[int]:
    """Times of the pictures before which a reference is missing, and of those shown before, decoded after."""
    return [tick for at in gaps for tick in pts[at : at + MOST_REORDERED] if tick <= pts[at]]


def _missing(ticks: np.ndarray, step: int, *, is_known: bool = False) -> np.ndarray:
    """Places of frames before which others are missing, in a stream [n] that is even but for few gaps.

    Args:
        is_known: that some are missing is known, so that it need not be even otherwise.
    """
    steps = np.diff(ticks)
    is_gap = steps > 1.5 * step
    if is_known:
        return np.nonzero(is_gap)[0] + 1
    rest = steps[~is_gap]
    is_even = len(rest) > 0 and rest.max() - rest.min() <= max(1, 0.05 * step)
    if not is_even or len(steps) < _FEW_STEPS or is_gap.sum() > max(2, _MOST_MISSING * len(steps)):
        return np.zeros(0, np.int64)
    return np.nonzero(is_gap[1:])[0] + 2  # a stream cut out of another lacks what leads to its first keyframe


def _left_out(seen: Shown, places: np.ndarray) -> np.ndarray:
    """Of places after a gap in time those where pictures are missing: of MPEG-1 and MPEG-2 their numbers tell
    a loss from a pause."""
    own = [seen.places[at] for at in np.argsort(seen.pts, kind="stable")]

    ends = Counter(before for before, after in itertools.pairwise(own) if after == 0)
    usual = max(ends, key=lambda end: ends[end], default=None)  # the last picture of a group

    def is_pause(at: int) -> bool:
        before, after = own[at - 1], own[at]
        if before is None or after is None:
            return False
        return (after - before) % _MOST_PLACES == 1 or (after == 0 and before == usual)

    return np.array([at for at in places if not is_pause(at)], np.int64)
