"""Pictures of H.264 written bit by bit: what no encoder at hand writes, as fields in packets of their own."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import av

NUM_BITS, SIZE_MBS = 4, 6  # of the numbers; width and height


class _Writer:
    def __init__(self) -> None:
        self.bits: list[int] = []

    def fixed(self, *pairs: tuple[int, int]) -> None:
        """Values of so many bits each."""
        for size, value in pairs:
            self.bits += [value >> place & 1 for place in range(size - 1, -1, -1)]

    def golomb(self, *values: int) -> None:
        for value in values:
            size = (value + 1).bit_length()
            self.fixed((size - 1, 0), (size, value + 1))

    def align(self) -> None:
        self.bits += [0] * (-len(self.bits) % 8)

    def unit(self, head: int) -> bytes:
        self.bits.append(1)
        self.align()
        out, zeros = bytearray([head]), 0
        for at in range(0, len(self.bits), 8):
            byte = int("".join(map(str, self.bits[at : at + 8])), 2)
            if zeros >= 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = 0 if byte else zeros + 1
        return b"\0\0\0\1" + bytes(out)


def settings(*, has_fields: bool = False) -> bytes:
    """Sequence and picture parameter sets."""
    sequence = _Writer()
    sequence.fixed((8, 77), (8, 0), (8, 30))
    sequence.golomb(0, NUM_BITS - 4, 2, 4)
    sequence.fixed((1, 0))
    sequence.golomb(SIZE_MBS - 1, SIZE_MBS // (1 + has_fields) - 1)
    sequence.fixed((1, not has_fields), *([(1, 0)] if has_fields else []), (1, 1), (1, 0), (1, 1))
    sequence.fixed((4, 0), (1, 1), (32, 1), (32, 50), (1, 1), (4, 0))  # 25 pictures a second
    picture = _Writer()
    picture.golomb(0, 0)
    picture.fixed((1, 0), (1, 0))
    picture.golomb(0, 0, 0)
    picture.fixed((1, 0), (2, 0))
    picture.golomb(0, 0, 0)
    picture.fixed((1, 1), (1, 0), (1, 0))
    return sequence.unit(0x67) + picture.unit(0x68)


def coded(number: int, *, is_first: bool = False, field: int | None = None, resets: bool = False) -> bytes:
    """A picture, or one of its fields (0 the upper one), that differs from the one before in one block.

    Args:
        number: as the standard counts them.
        is_first: built on no other.
        resets: it forgets all others, and numbering begins anew after it.
    """
    slice_, draw = _Writer(), random.Random(number * 3 + bool(field))
    num_blocks = SIZE_MBS**2 // (1 if field is None else 2)
    slice_.golomb(0, 7 if is_first else 5, 0)
    slice_.fixed((NUM_BITS, number % (1 << NUM_BITS)))
    if field is not None:
        slice_.fixed((1, 1), (1, field))
    if is_first:
        slice_.golomb(0)
        slice_.fixed((1, 0), (1, 0))
    else:
        slice_.fixed((1, 0), (1, 0), (1, resets))
        if resets:
            slice_.golomb(5, 0)
    slice_.golomb(0, 1)
    place = number * 5 % num_blocks
    for _ in range(num_blocks if is_first else 1):
        slice_.golomb(*([25] if is_first else [place, 30]))
        slice_.align()
        slice_.fixed(*((8, draw.randrange(60, 200)) for _ in range(256)), *((8, 128) for _ in range(128)))
    if not is_first and place < num_blocks - 1:
        slice_.golomb(num_blocks - place - 1)
    return slice_.unit(0x65 if is_first else 0x41)


def write(path: Path, packets: list[bytes], rate: int) -> Path:
    """A file of packets, so many a second; without times where it is a raw stream."""
    if path.suffix == ".h264":
        path.write_bytes(b"".join(b"\0\0\0\1\x09\xf0" + packet for packet in packets))
        return path
    raw = write(path.with_suffix(".h264"), packets, rate)
    with av.open(str(raw)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for place, data in enumerate(packets):
            packet = av.Packet(b"\0\0\0\1\x09\xf0" + data)
            packet.pts = packet.dts = place
            packet.time_base, packet.is_keyframe = Fraction(1, rate), place == 0
            packet.stream = stream
            container.mux(packet)
    return path
