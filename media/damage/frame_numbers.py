"""Reference frames that H.264 lacks, by the numbers that its slices carry.

Each reference picture has a number, one more than the one before. Where a number is left out a packet is
missing, and what follows is built on a picture that was never decoded, which FFmpeg conceals without a word.
A camera that skips a frame leaves a gap in time, and none in the numbers. Interlaced video may hold the two
fields of a picture in packets of their own, which have one number and show one frame.

Source: ITU-T H.264, sections 7.3.1, 7.3.2.1.1, 7.3.3, 7.4.3 (frame_num).
"""

from __future__ import annotations

from dataclasses import dataclass

from media.damage.nal import Bits, after_start_codes, units

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
    num_order_bits: int  # of a picture's place as shown; 0 where slices do not say it so
    may_skip: bool
    has_planes: bool
    has_fields: bool


@dataclass(frozen=True)
class Seen:
    """What a packet's numbers tell.

    Attributes:
        is_gap: a reference picture is missing before its picture.
        may_be_anew: that may be so, or numbering began anew, which a slice says further on.
        is_second: it holds but the second field of a picture that the packet before it began.
    """

    is_gap: bool = False
    may_be_anew: bool = False
    is_second: bool = False


def _settings(unit: bytes) -> tuple[int, _Settings]:
    """The id of a sequence parameter set, and what it says."""
    profile, bits, has_planes = unit[1], Bits(unit[4:]), False
    own_id = bits.number()
    if profile in _WITH_CHROMA:
        if bits.number() == 3:
            has_planes = bool(bits.take(1))
        bits.number(), bits.number(), bits.take(1)  # depths, and lossless
        if bits.take(1):  # matrices, of which there is no need
            raise ValueError("scaling matrices")
    num_bits = bits.number() + 4
    if num_bits > _MOST_BITS:
        raise ValueError(f"frame numbers of {num_bits} bits")
    kind, num_order_bits = bits.number(), 0  # of order
    if kind == 0:
        num_order_bits = bits.number() + 4
    elif kind == 1:
        bits.take(1), bits.number(), bits.number()
        for _ in range(min(256, bits.number())):
            bits.number()
    bits.number()  # reference frames
    may_skip = bool(bits.take(1))
    bits.number(), bits.number()  # width and height
    return own_id, _Settings(num_bits, num_order_bits, may_skip, has_planes, not bits.take(1))


class FrameNumbers:
    """Follows the numbers of a stream, packet by packet in the order of decoding.

    Args:
        extradata: of the stream, as FFmpeg has it.

    Attributes:
        is_readable: numbers can be read; where not, nothing is said of gaps.
        num_settings: different ones that it had: with each the picture may become another.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self.is_readable = True
        self._units: set[bytes] = set()
        self._by_id: dict[int, _Settings] = {}
        self._settings: _Settings | None = None
        self._before: int | None = None
        self._was_idr = False  # the reference picture before
        self._order = self._most_step = self._least_step = 0
        # of the reference picture shown last; from one to the next
        self._open: tuple[int, bool] | None = None  # number and parity of a field that waits for the other
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

    @property
    def num_settings(self) -> int:
        return len(self._units)

    def _take_settings(self, unit: bytes) -> None:
        self._units.add(unit.partition(b"\0\0\1")[0].rstrip(b"\0"))
        try:
            own_id, found = _settings(unit)
        except (ValueError, IndexError):
            self.is_readable = False
            return
        self._by_id[own_id] = self._settings = found
        if len(set(self._by_id.values())) > 1:  # slices may be of either
            self.is_readable = False

    @property
    def has_fields(self) -> bool:
        """Whether pictures may be of two fields."""
        return any(settings.has_fields for settings in self._by_id.values())

    @property
    def is_known(self) -> bool:
        """Whether gaps would have been seen so far: not in a stream that may leave numbers out."""
        return self.is_readable and self._settings is not None and not self._settings.may_skip

    def look(self, data: bytes, is_key: bool) -> Seen:
        """What the next packet's numbers tell.

        Args:
            is_key: decoding may begin here, whatever is missing.
        """
        first: tuple[bytes, int, int] | None = None
        parities = set[bool]()
        for unit in units(data, self._size_bytes):
            kind = unit[0] & 31 if unit else 0
            if kind == _SPS:
                self._take_settings(unit)
            if kind not in (_SLICE, _IDR) or not self.is_readable or self._settings is None:
                continue
            try:
                number, parity, order = self._slice(unit)
            except (ValueError, IndexError):  # damage, which the decoder reports
                self._before = self._open = None
                return Seen()
            first = first or (unit, number, order)
            if parity is None:
                break  # a whole picture
            parities.add(parity)
        if first is None or self._settings is None:
            return Seen()
        unit, number, order = first
        is_second = self._is_second(number, parities)
        before, self._before = self._before, number if unit[0] >> 5 & 3 else self._before
        was_idr, is_idr = self._was_idr, unit[0] & 31 == _IDR
        is_far = self._is_far(order, is_idr) if unit[0] >> 5 & 3 else False
        self._was_idr = is_idr if unit[0] >> 5 & 3 else was_idr
        is_free = is_key or unit[0] & 31 == _IDR or self._settings.may_skip or before is None
        if is_free or number in (before, ((before or 0) + 1) % (1 << self._settings.num_bits)):
            # the picture that began anew may be lost, where numbers had just run over to zero
            return Seen(
                may_be_anew=is_far and not was_idr and not is_free and number == 1, is_second=is_second
            )
        return Seen(number != 1, number == 1, is_second)

    def _is_second(self, number: int, parities: set[bool]) -> bool:
        """Whether a packet with these fields, of none with a whole picture, ends the one before it."""
        if len(parities) != 1:
            self._open = None
            return False
        (parity,) = parities
        is_second = self._open == (number, not parity)
        self._open = None if is_second else (number, parity)
        return is_second

    def _is_far(self, order: int, is_anew: bool) -> bool:
        """Whether a reference picture is shown further from the last one, either way, than any was so far."""
        assert self._settings is not None
        span = 1 << self._settings.num_order_bits
        step = 0 if is_anew else (order - self._order + span // 2) % span - span // 2
        is_far = self._most_step > 0 and not self._least_step <= step <= self._most_step
        self._order = order if is_anew or step > 0 else self._order
        self._most_step, self._least_step = max(step, self._most_step), min(step, self._least_step)
        return is_far

    def _slice(self, unit: bytes) -> tuple[int, bool | None, int]:
        """A slice's number; whether it is of the lower field, None for one of a whole picture; its order."""
        assert self._settings is not None
        bits = Bits(unit[1:_HEAD_BYTES])
        bits.number(), bits.number(), bits.number()  # first block, kind, settings of the picture
        if self._settings.has_planes:
            bits.take(2)
        number = bits.take(self._settings.num_bits)
        is_field = self._settings.has_fields and bits.take(1)
        parity = bool(bits.take(1)) if is_field else None
        if unit[0] & 31 == _IDR:
            bits.number()
        return number, parity, bits.take(self._settings.num_order_bits)
