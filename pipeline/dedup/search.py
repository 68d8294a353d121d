"""The search for pairs of clips that may be copies, in three maps over blocks, tables and pairs.

`keyed` takes a block of clips: of each frame 64 bits, small coefficients, and bucket keys, which are read
from fixed parts of the bits, one part a table (locality-sensitive hashing by sampled bits: Indyk and Motwani
1998, Gionis et al. 1999); the bits nearest to their threshold are tried both ways (multi-probe, Lv et al.
2007).
`candidates` takes one table of all blocks: frames that share a bucket and are alike propose their clips. Each
clip is read once, each table is sorted once, so the work grows as the clips do.

A bucket with more than `BUCKET_CAP` members is a common look, not a copy: its members are put in order of
their bits, each is compared with the next `BUCKET_CAP` // 2 alone, and has to be nearer. How many buckets and
comparisons that touched is in the report.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from media.measure.videohash import ASPECT_RATIO, ROUGH_MAX, VideoHash, coefficients_of
from pipeline.dedup.grouping import Report

TABLES, TABLE_BITS, WEAK_BITS = 12, 16, 2
MAX_BITS_APART = 16
"""Of 64: frames further apart do not propose their clips (in copies the nearest two frames were up to 13
apart)."""
MAX_BITS_APART_CROWDED = 12
"""The same in a crowded bucket, where chance neighbours are near."""
BUCKET_CAP = 128
STEPS = 127 / 8
"""Small coefficients are in whole steps of this part; all lie within 8."""
_STRIDES = range(1, 2 * TABLES, 2)
_PARTS = np.array(
    [
        [(stride * (5 * table + 1 + position)) % 64 for position in range(TABLE_BITS)]
        for table, stride in enumerate(_STRIDES)
    ]
)
_FRAMES_AT_ONCE, _MEMBERS_AT_ONCE = 1 << 14, 1 << 20


@dataclass(frozen=True)
class Frames:
    """The telling frames of a block of clips, n of them.

    Attributes:
        owner: [n] uint32, which clip of the block a frame is of.
        bits: [n] uint64, the signs of its coefficients.
        small: [n, 64] int8, the coefficients in steps.
        log_aspects: [n] float32, logarithm of width over height.
    """

    num_clips: int
    num_flat: int
    owner: np.ndarray
    bits: np.ndarray
    small: np.ndarray
    log_aspects: np.ndarray


Keys = tuple[np.ndarray, np.ndarray]
"""Of one table: keys [k] uint16, and the frame of each [k] uint32, in a block."""


def frame_bits(coefficients: np.ndarray) -> np.ndarray:
    """[n] uint64: the signs of coefficients [n, 64]."""
    return np.ascontiguousarray(np.packbits(coefficients > 0, axis=1)).view(">u8").ravel().astype(np.uint64)


def keyed(hashes: Sequence[bytes]) -> tuple[Frames, list[Keys]]:
    """The frames of a block of clips, and their keys table by table.

    Of the frames of one view that share a key, the first has it.
    """
    found = [VideoHash.from_bytes(data) for data in hashes]
    views = [(place, view) for place, clip in enumerate(found) for view in clip.views]
    lengths = np.array([len(view.times_s) for _, view in views], np.int64)
    cells = np.concatenate([view.cells for _, view in views]) if views else np.zeros((0, 12, 12, 3), np.uint8)
    values, is_flat = coefficients_of(cells)
    telling = np.nonzero(~is_flat)[0]
    of_view = np.repeat(np.arange(len(views)), lengths)[telling]
    owners = np.array([place for place, _ in views], np.uint32)
    aspects = np.log(np.array([view.aspect for _, view in views], np.float64)).astype(np.float32)
    values = values[telling]
    frames = Frames(
        len(found),
        len(found) - len(np.unique(owners[of_view])),
        owners[of_view],
        frame_bits(values),
        np.clip(np.rint(values * STEPS), -127, 127).astype(np.int8),
        aspects[of_view],
    )
    return frames, [_keys(values, of_view, table) for table in range(TABLES)]


def _keys(values: np.ndarray, of_view: np.ndarray, table: int) -> Keys:
    """Keys of one table of all frames, each once in a view."""
    place = (1 << np.arange(TABLE_BITS)).astype(np.uint32)
    keys, weak = [], []
    for begin in range(0, len(values), _FRAMES_AT_ONCE):
        part = values[begin : begin + _FRAMES_AT_ONCE, _PARTS[table]]
        keys.append(((part > 0) * place).sum(-1, dtype=np.uint32))
        order = np.argsort(np.abs(part), axis=-1, kind="stable")[:, :WEAK_BITS]
        weak.append(place[order])
    if not keys:
        return np.zeros(0, np.uint16), np.zeros(0, np.uint32)
    probes, flips = [np.concatenate(keys)], np.concatenate(weak)
    for bit in range(WEAK_BITS):
        probes += [key ^ flips[:, bit] for key in probes]
    stacked = np.stack(probes, -1)
    codes = (of_view[:, None].astype(np.uint64) << np.uint64(TABLE_BITS)) | stacked.astype(np.uint64)
    unique, first = np.unique(codes.ravel(), return_index=True)
    return (unique & np.uint64((1 << TABLE_BITS) - 1)).astype(np.uint16), (first // stacked.shape[1]).astype(
        np.uint32
    )


def bucket_steps(sizes: np.ndarray, cap: int = BUCKET_CAP) -> np.ndarray:
    """With how many of the members after it each member of a bucket is compared at most, by bucket."""
    return np.where(sizes <= cap, sizes - 1, cap // 2)


def left_out(sizes: np.ndarray, cap: int = BUCKET_CAP) -> tuple[int, int]:
    """Buckets over the cap, and comparisons that it leaves out."""
    crowded = sizes[sizes > cap].astype(np.int64)
    steps = cap // 2
    made = crowded * steps - steps * (steps + 1) // 2
    return len(crowded), int((crowded * (crowded - 1) // 2 - made).sum())


def candidates(
    blocks: Sequence[Frames], keys: Sequence[Keys], cap: int = BUCKET_CAP
) -> tuple[np.ndarray, Report]:
    """Pairs of clips [p, 2] int64, i < j, each once, that one table proposes; what was done for it.

    Args:
        blocks: all clips; they are numbered through from the first block on.
        keys: of this table, block by block.
    """
    report = Report(keys=sum(len(own) for own, _ in keys))
    first_frame = np.cumsum([0, *(len(block.owner) for block in blocks)])
    first_clip = np.cumsum([0, *(block.num_clips for block in blocks)])
    owner = _joined([block.owner for block in blocks], first_clip)
    bits_of = np.concatenate([block.bits for block in blocks])
    all_keys = np.concatenate([own for own, _ in keys])
    frames = _joined([own for _, own in keys], first_frame)
    order = np.argsort(all_keys, kind="stable")
    all_keys, frames = all_keys[order], frames[order]
    del order
    is_first = np.append(True, all_keys[1:] != all_keys[:-1])[: len(all_keys)]
    starts = np.nonzero(is_first)[0]
    sizes = np.diff(np.append(starts, len(all_keys)))
    report.largest_bucket = int(sizes.max(initial=0))
    report.capped_buckets, report.comparisons_left_out = left_out(sizes, cap)
    codes = [np.zeros(0, np.int64)]
    near = functools.partial(_alike, blocks, first_frame, owner, int(first_clip[-1]))
    of_chunk = starts // _MEMBERS_AT_ONCE
    for chunk in np.unique(of_chunk):
        mine = of_chunk == chunk
        begin, own = int(starts[mine][0]), sizes[mine]
        members = frames[begin : begin + int(own.sum())]
        codes.append(_proposed(members, bits_of, own, cap, near))
    proposed = np.unique(np.concatenate(codes))
    report.candidates = len(proposed)
    count = int(first_clip[-1])
    return np.stack([proposed // max(1, count), proposed % max(1, count)], 1), report


def _proposed(
    frames: np.ndarray,
    bits_of: np.ndarray,
    sizes: np.ndarray,
    cap: int,
    near: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Codes of the pairs of clips that some buckets propose.

    Args:
        frames: of the buckets, one after the other.
        sizes: members of each bucket.
        near: codes of the pairs of clips of two rows of frames that are alike.
    """
    bucket = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((bits_of[frames], bucket))
    frames = frames[order]
    bits = bits_of[frames]
    end = np.repeat(np.cumsum(sizes), sizes)
    reach = np.minimum(np.repeat(bucket_steps(sizes, cap), sizes), end - 1 - np.arange(len(frames)))
    most = np.repeat(np.where(sizes > cap, MAX_BITS_APART_CROWDED, MAX_BITS_APART), sizes).astype(np.uint8)
    places, found = np.arange(len(frames)), [np.zeros(0, np.int64)]
    for step in range(1, int(reach.max(initial=0)) + 1):
        # members of a bucket lie side by side: what is `step` further on is compared with all at once
        places = places[reach[places] >= step]
        close = places[np.bitwise_count(bits[places] ^ bits[places + step]) <= most[places]]
        found.append(near(frames[close], frames[close + step]))
    return np.unique(np.concatenate(found))


def _joined(parts: Sequence[np.ndarray], begins: np.ndarray) -> np.ndarray:
    """Numbers within blocks [n] uint32 as numbers through all of them."""
    return np.concatenate([part + np.uint32(begin) for part, begin in zip(parts, begins, strict=False)])


def _alike(
    blocks: Sequence[Frames],
    first_frame: np.ndarray,
    owner: np.ndarray,
    count: int,
    first: np.ndarray,
    second: np.ndarray,
) -> np.ndarray:
    """Codes of the pairs of clips that have one of these pairs of frames in common."""
    other = owner[first] != owner[second]
    first, second = first[other], second[other]
    found = [np.zeros(0, np.int64)]
    for begin in range(0, len(first), 1 << 18):
        one, two = first[begin : begin + (1 << 18)], second[begin : begin + (1 << 18)]
        aspects = [_taken(blocks, first_frame, place, "log_aspects") for place in (one, two)]
        near = np.abs(aspects[0] - aspects[1]) <= np.log(ASPECT_RATIO) + 1e-6
        one, two = one[near], two[near]
        values = [_taken(blocks, first_frame, place, "small").astype(np.int16) for place in (one, two)]
        squares = np.square((values[0] - values[1]).astype(np.float32)).sum(1) / STEPS**2
        pairs = np.sort(np.stack([owner[one], owner[two]], 1)[squares <= ROUGH_MAX], axis=1).astype(np.int64)
        found.append(np.unique(pairs[:, 0] * count + pairs[:, 1]))
    return np.unique(np.concatenate(found))


def _taken(blocks: Sequence[Frames], first_frame: np.ndarray, places: np.ndarray, name: str) -> np.ndarray:
    """Values of frames that are numbered through all blocks."""
    if len(blocks) == 1:
        return np.asarray(getattr(blocks[0], name)[places])
    of_block = np.searchsorted(first_frame, places, side="right") - 1
    sample = getattr(blocks[0], name)
    taken = np.empty((len(places), *sample.shape[1:]), sample.dtype)
    for number in np.unique(of_block):
        mine = of_block == number
        taken[mine] = getattr(blocks[number], name)[places[mine] - first_frame[number]]
    return taken
