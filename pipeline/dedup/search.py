"""The search for pairs of clips that may be copies: frames that share a bucket of a table and are alike.

Each table's frames are put in order of their keys, then of their bits, once (`sorted_table`); members of a
bucket then lie side by side. `within` compares the frames of one table with each other, `between` those of a
small table with those of a large one, without going through the large one. Both propose pairs of frames whose
bits are near; `alike` keeps those whose coefficients are.

A bucket with more than `BUCKET_CAP` members is a common look, not a copy: each member is compared with the
`BUCKET_CAP` // 2 that come next in order of their bits alone, and has to be nearer. How many buckets and
comparisons that touched is in the report.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from media.measure.videohash import ASPECT_RATIO, ROUGH_MAX
from pipeline.dedup.grouping import Report
from pipeline.dedup.keys import NUM_KEYS, STEPS, Frames, Keys

MAX_BITS_APART = 16
"""Of 64: frames further apart do not propose their clips (in copies the nearest two frames were up to 13
apart)."""
MAX_BITS_APART_CROWDED = 12
"""The same in a crowded bucket, where chance neighbours are near."""
BUCKET_CAP = 128
_MEMBERS_AT_ONCE, _PAIRS_AT_ONCE, _WINDOWS_AT_ONCE = 1 << 20, 1 << 18, 1 << 11


@dataclass(frozen=True)
class Table:
    """Frames in the buckets of one table.

    Attributes:
        frames: [k] uint32, in order of keys, then of the frames' bits.
        starts: [NUM_KEYS + 1] int64, where the members of each key begin.
    """

    frames: np.ndarray
    starts: np.ndarray


def sorted_table(bits: np.ndarray, keys: Sequence[Keys], first_frame: np.ndarray) -> Table:
    """A table of all frames.

    Args:
        bits: [n] uint64 of all frames.
        keys: of this table, block by block.
        first_frame: number of the first frame of each block.
    """
    all_keys = np.concatenate([own for own, _ in keys])
    frames = joined([own for _, own in keys], first_frame)
    frames = frames[np.argsort(all_keys, kind="stable")]
    starts = np.append(0, np.cumsum(np.bincount(all_keys, minlength=NUM_KEYS)))
    for first, last in _buckets_at_once(starts):
        begin, end = starts[first], starts[last]
        bucket = np.repeat(np.arange(first, last), np.diff(starts[first : last + 1]))
        part = frames[begin:end]
        frames[begin:end] = part[np.lexsort((bits[part], bucket))]
    return Table(frames, starts)


def _buckets_at_once(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of buckets that together hold about as many members as are handled at once."""
    of_chunk = starts[:-1] // _MEMBERS_AT_ONCE
    firsts = np.append(np.nonzero(np.append(True, np.diff(of_chunk) > 0))[0], len(of_chunk))
    for first, last in itertools.pairwise(firsts):
        if starts[last] > starts[first]:
            yield int(first), int(last)


def bucket_steps(sizes: np.ndarray, cap: int = BUCKET_CAP) -> np.ndarray:
    """With how many of the members after it each member of a bucket is compared at most, by bucket."""
    return np.where(sizes <= cap, sizes - 1, cap // 2)


def left_out(sizes: np.ndarray, cap: int = BUCKET_CAP) -> tuple[int, int]:
    """Buckets over the cap, and comparisons that it leaves out."""
    crowded = sizes[sizes > cap].astype(np.int64)
    steps = cap // 2
    made = crowded * steps - steps * (steps + 1) // 2
    return len(crowded), int((crowded * (crowded - 1) // 2 - made).sum())


def told(table: Table, cap: int = BUCKET_CAP) -> Report:
    """What a search within a table does."""
    sizes = np.diff(table.starts)
    capped, comparisons = left_out(sizes, cap)
    return Report(
        keys=len(table.frames),
        largest_bucket=int(sizes.max(initial=0)),
        capped_buckets=capped,
        comparisons_left_out=comparisons,
    )


Near = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From frames [p] and others [p] to codes of the pairs of clips that have one of these pairs in common."""


def within(table: Table, bits: np.ndarray, near: Near, cap: int = BUCKET_CAP) -> np.ndarray:
    """Codes of the pairs of clips that a table proposes, each once."""
    found = [np.zeros(0, np.int64)]
    for first, last in _buckets_at_once(table.starts):
        sizes = np.diff(table.starts[first : last + 1])
        frames = table.frames[table.starts[first] : table.starts[last]]
        own = bits[frames]
        end = np.repeat(np.cumsum(sizes), sizes)
        reach = np.minimum(np.repeat(bucket_steps(sizes, cap), sizes), end - 1 - np.arange(len(frames)))
        most = np.repeat(_bits_apart(sizes, cap), sizes)
        places, codes = np.arange(len(frames)), [np.zeros(0, np.int64)]
        for step in range(1, int(reach.max(initial=0)) + 1):
            # what is `step` further on is compared with all at once
            places = places[reach[places] >= step]
            close = places[np.bitwise_count(own[places] ^ own[places + step]) <= most[places]]
            codes.append(near(frames[close], frames[close + step]))
        found.append(np.unique(np.concatenate(codes)))
    return np.unique(np.concatenate(found))


def between(
    new: Table, new_bits: np.ndarray, old: Table, old_bits: np.ndarray, cap: int = BUCKET_CAP
) -> np.ndarray:
    """Pairs of frames [p, 2] uint32, a new one and an old one, whose bits are near; some more than once.

    Each new frame is compared with the old ones that would lie beside it if the tables were one.
    """
    sizes = np.diff(new.starts)
    key = np.repeat(np.arange(NUM_KEYS), sizes)
    low, high = old.starts[key], old.starts[key + 1]
    own = new_bits[new.frames]
    together = np.diff(old.starts) + sizes
    is_crowded = (together > cap)[key]
    place = _lowest(own, low, high, old.frames, old_bits)
    begin = np.where(is_crowded, np.maximum(low, place - cap // 2), low)
    end = np.where(is_crowded, np.minimum(high, place + cap // 2), high)
    most = _bits_apart(together, cap)[key]
    rows = np.nonzero(begin < end)[0]
    # what a new frame is compared with lies side by side in the old table: rows of a window over it
    width = min(int((end - begin).max(initial=1)), max(1, len(old.frames)))
    starts = np.minimum(begin, len(old.frames) - width)
    if not len(rows):
        return np.zeros((0, 2), np.uint32)
    windows = np.lib.stride_tricks.sliding_window_view(old.frames, width)
    found = [np.zeros((0, 2), np.uint32)]
    for first in range(0, len(rows), _WINDOWS_AT_ONCE):
        some = rows[first : first + _WINDOWS_AT_ONCE]
        others = windows[starts[some]]
        close = np.bitwise_count(old_bits.take(others, mode="clip") ^ own[some, None]) <= most[some, None]
        places = starts[some, None] + np.arange(width)
        close &= (places >= begin[some, None]) & (places < end[some, None])
        at, place = np.nonzero(close)
        found.append(np.stack([new.frames[some[at]], others[at, place]], 1))
    return np.concatenate(found)


def _bits_apart(sizes: np.ndarray, cap: int) -> np.ndarray:
    """How many bits members of each bucket may be apart."""
    return np.where(sizes > cap, MAX_BITS_APART_CROWDED, MAX_BITS_APART).astype(np.uint8)


def _lowest(
    wanted: np.ndarray, low: np.ndarray, high: np.ndarray, frames: np.ndarray, bits: np.ndarray
) -> np.ndarray:
    """For each wanted value the first place from `low` up to `high` whose bits are not less."""
    low, high = low.copy(), high.copy()
    while (rows := np.nonzero(low < high)[0]).size:
        middle = (low[rows] + high[rows]) // 2
        is_less = bits[frames[middle]] < wanted[rows]
        low[rows[is_less]] = middle[is_less] + 1
        high[rows[~is_less]] = middle[~is_less]
    return low


def joined(parts: Sequence[np.ndarray], begins: np.ndarray) -> np.ndarray:
    """Numbers within blocks [n] uint32 as numbers through all of them."""
    return np.concatenate([part + np.uint32(begin) for part, begin in zip(parts, begins, strict=False)])


class Blocks:
    """All frames of some blocks of clips, numbered through, as are the clips."""

    def __init__(self, blocks: Sequence[Frames]) -> None:
        self.blocks = blocks
        self.first_frame = np.cumsum([0, *(len(block.owner) for block in blocks)])
        first_clip = np.cumsum([0, *(block.num_clips for block in blocks)])
        self.num_clips = int(first_clip[-1])
        self.owner = joined([block.owner for block in blocks], first_clip)
        self.bits = np.concatenate([block.bits for block in blocks])

    def taken(self, frames: np.ndarray, name: str) -> np.ndarray:
        """Values of some frames."""
        if len(self.blocks) == 1:
            return np.asarray(getattr(self.blocks[0], name)[frames])
        of_block = np.searchsorted(self.first_frame, frames, side="right") - 1
        sample = getattr(self.blocks[0], name)
        taken = np.empty((len(frames), *sample.shape[1:]), sample.dtype)
        for number in np.unique(of_block):
            mine = of_block == number
            taken[mine] = getattr(self.blocks[number], name)[frames[mine] - self.first_frame[number]]
        return taken

    def near(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Codes of the pairs of clips, the smaller times `num_clips` plus the larger; see `Near`."""
        other = self.owner[first] != self.owner[second]
        first, second = first[other], second[other]
        found = [np.zeros(0, np.int64)]
        for begin in range(0, len(first), _PAIRS_AT_ONCE):
            one, two = first[begin : begin + _PAIRS_AT_ONCE], second[begin : begin + _PAIRS_AT_ONCE]
            is_alike = alike(self, one, self, two)
            owners = [self.owner[one][is_alike], self.owner[two][is_alike]]
            pairs = np.sort(np.stack(owners, 1), axis=1).astype(np.int64)
            found.append(np.unique(pairs[:, 0] * self.num_clips + pairs[:, 1]))
        return np.unique(np.concatenate(found))


def alike(one: Blocks, first: np.ndarray, two: Blocks, second: np.ndarray) -> np.ndarray:
    """[p] bool: whether frames of one lot are like frames of another, by aspect and small coefficients."""
    aspects = np.abs(one.taken(first, "log_aspects") - two.taken(second, "log_aspects"))
    found = aspects <= np.log(ASPECT_RATIO) + 1e-6
    rows = np.nonzero(found)[0]
    values = [one.taken(first[rows], "small"), two.taken(second[rows], "small")]
    apart = (values[0].astype(np.int16) - values[1].astype(np.int16)).astype(np.float32)
    found[rows] = np.square(apart).sum(1) / STEPS**2 <= ROUGH_MAX
    return found


def candidates(
    blocks: Sequence[Frames], keys: Sequence[Keys], cap: int = BUCKET_CAP
) -> tuple[np.ndarray, Report, Table]:
    """Pairs of clips [p, 2] int64, i < j, each once, that one table proposes; what was done; the table.

    Args:
        blocks: all clips; they are numbered through from the first block on.
        keys: of this table, block by block.
    """
    every = Blocks(blocks)
    table = sorted_table(every.bits, keys, every.first_frame)
    codes = within(table, every.bits, every.near, cap)
    report = told(table, cap)
    report.candidates = len(codes)
    count = max(1, every.num_clips)
    return np.stack([codes // count, codes % count], 1), report, table
