"""Reference frames that H.264 lacks, by the numbers that its slices carry.

Each reference picture has a number, one more than the one before. Where a number is left out a packet is
missing, and what follows is built on a picture that was never decoded, which FFmpeg conceals without a word.
A camera that skips a frame leaves a gap in time, and none in the numbers.

Source: ITU-T H.264, sections 7.3.1, 7.3.2.1.1, 7.3.3, 7.4.3 (frame_num).
"""

from __future__ import annotations

from dataclasses import dataclass

from media.decode.nal import Bits, after_start_codes, units

_SLICE, _IDR, _SPS = 1, 5, 7
_HEAD_BYTES = 32
"""Of a slice: its number lies within them."""
_WITH_CHROMA = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
"""Profiles whose settings say how colour is stored."""
_MOST_BITS = 16


@dataclass(frozen=True)
class _Settings:
    """What a sequence parameter set says of numbers."""

    num_bits: int
    may_skip: bool
    has_planes: bool


def _settings(unit: bytes) -> _Settings:
    profile, bits = unit[1], Bits(unit[4:])
    bits.number()  # its own id
    has_planes = False
    if profile in _WITH_CHROMA:
        if bits.number() == 3:
            has_planes = bool(bits.take(1))
        bits.number(), bits.number(), bits.take(1)  # depths, and lossless
        if bits.take(1):  # matrices, of which there is no need
            raise ValueError("scaling matrices")
    num_bits = bits.number() + 4
    if num_bits > _MOST_BITS:
        raise ValueError(f"frame numbers of {num_bits} bits")
    kind = bits.number()  # of order
    if kind == 0:
        bits.number()
    elif kind == 1:
        bits.take(1), bits.number(), bits.number()
        for _ in range(min(256, bits.number())):
            bits.number()
    bits.number()  # reference frames
    return _Settings(num_bits, bool(bits.take(1)), has_planes)


class FrameNumbers:
    """Follows the numbers of a stream, packet by packet in the order of decoding.

    Args:
        extradata: of the stream, as FFmpeg has it.

    Attributes:
        is_readable: numbers can be read; where not, nothing is said of gaps.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self.is_readable = True
        self._settings: _Settings | None = None
        self._before: int | None = None
        self._size_bytes = 4
        data = extradata or b""
        if len(data) > 6 and data[0] == 1:  # as MP4 and Matroska have it
            self._size_bytes = (data[4] & 3) + 1
            size = int.from_bytes(data[6:8], "big")
            if data[5] & 31:
                self._take_settings(data[8 : 8 + size])
        else:
            for unit in after_start_codes(data):
                if unit and unit[0] & 31 == _SPS:
                    self._take_settings(unit)

    def _take_settings(self, unit: bytes) -> None:
        try:
            found = _settings(unit)
        except (ValueError, IndexError):
            self.is_readable = False
            return
        if self._settings not in (None, found):  # slices may be of either
            self.is_readable = False
        self._settings = found

    @property
    def is_known(self) -> bool:
        """Whether gaps would have been seen so far: not in a stream that may leave numbers out."""
        return self.is_readable and self._settings is not None and not self._settings.may_skip

    def is_gap(self, data: bytes, is_key: bool) -> bool:
        """Whether a reference picture is missing before the picture of a packet.

        Args:
            is_key: decoding may begin here, whatever is missing.
        """
        for unit in units(data, self._size_bytes):
            kind = unit[0] & 31 if unit else 0
            if kind == _SPS:
                self._take_settings(unit)
            if kind in (_SLICE, _IDR):
                try:
                    return self._slice(unit, kind == _IDR) and not is_key
                except (ValueError, IndexError):
                    self._before = None  # damage, which the decoder reports
                    return False
        return False

    def _slice(self, unit: bytes, is_new: bool) -> bool:
        if not self.is_readable or self._settings is None:
            return False
        bits = Bits(unit[1:_HEAD_BYTES])
        bits.number(), bits.number(), bits.number()  # first block, kind, settings of the picture
        if self._settings.has_planes:
            bits.take(2)
        number, before = bits.take(self._settings.num_bits), self._before
        after = None if before is None else (before + 1) % (1 << self._settings.num_bits)
        if unit[0] >> 5 & 3:  # others are built on it
            self._before = number
        return (
            not is_new
            and not self._settings.may_skip
            and before is not None
            and number not in (before, after)
        )
