"""What the search for copies knows of a clip's frames: 64 bits, small coefficients, and bucket keys.

Keys are read from fixed parts of the bits, one part a table (locality-sensitive hashing by sampled bits:
Indyk and Motwani 1998, Gionis et al. 1999); the bits nearest to their threshold are tried both ways
(multi-probe, Lv et al. 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from media.measure.videohash import VideoHash, coefficients_of

TABLES, TABLE_BITS, WEAK_BITS = 12, 16, 2
NUM_KEYS = 1 << TABLE_BITS
STEPS = 127 / 8
"""Small coefficients are in whole steps of this part; all lie within 8."""
_STRIDES = range(1, 2 * TABLES, 2)
_PARTS = np.array(
    [
        [(stride * (5 * table + 1 + position)) % 64 for position in range(TABLE_BITS)]
        for table, stride in enumerate(_STRIDES)
    ]
)
_FRAMES_AT_ONCE = 1 << 14


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
