"""What packets hold, whatever their flags say: frames that are not shown, and keyframes that are none.

VP8 and VP9 store frames that only others are built on, in files of some writers as packets of their own.
Counted as frames they would make the rate too high, and a sound file look as if frames were missing.

H.264 may refresh its picture bit by bit: demuxers flag where that begins as a keyframe, and decoding from
there gives broken pictures for as long as the encoder chose.

Sources: RFC 6386 section 9.1; VP9 bitstream specification sections 6.2 and B.2; ITU-T H.264 sections 7.3.1
and 7.3.3;
ITU-T H.262 section 6.3.9 (temporal_reference); ITU-T H.265 section 7.4.2.2; ISO/IEC 14496-15 section 8.3.3.1.
"""

from __future__ import annotations

import av

from media.damage.nal import Bits, after_start_codes, units

_SLICE, _IDR = 1, 5
_HEVC_SPS, _NO_REFERENCE = 33, range(0, 16, 2)
"""Of HEVC: kinds of pictures that none of their own layer in time leans on."""
_INTRA = {2, 4, 7, 9}
"""Slice types I and SI."""
_OF_MPEG = {
    "mpeg1video": (b"\0\0\1\0", lambda head: head[1] >> 3 & 7 == 3),
    "mpeg2video": (b"\0\0\1\0", lambda head: head[1] >> 3 & 7 == 3),
    "mpeg4": (b"\0\0\1\xb6", lambda head: head[0] >> 6 == 2),
}
"""Start codes of pictures, and whether what comes behind them says that one leans on both sides."""
_MPEG_HEAD_BYTES = 256


def is_hidden(packet: av.Packet, codec: str) -> bool:
    """Whether a packet of a codec (FFmpeg's name) holds a frame that is not to be shown."""
    if codec not in {"vp8", "vp9"} or packet.size < 1:
        return False
    data = memoryview(packet)
    first = data[0]
    if codec == "vp8":
        return not first >> 4 & 1
    if data[-1] & 0xE0 == 0xC0:  # a superframe: several frames, of which one is shown
        return False
    if first >> 6 != 2:  # no VP9 frame: the decoder will say so
        return False
    profile = (first >> 5 & 1) | (first >> 4 & 1) << 1
    existing, frame = (3, 1) if profile != 3 else (2, 0)  # profile 3 has a reserved bit before them
    return not first >> existing & 1 and not first >> frame & 1


def key_size(packet: av.Packet, codec: str) -> tuple[int, int] | None:
    """(width, height) that a keyframe of VP8 or of VP9, profile 0, says of itself; None where none does."""
    data = bytes(memoryview(packet)[:16])
    if codec == "vp8" and data[3:6] == b"\x9d\x01\x2a" and len(data) >= 10:
        return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
    if codec != "vp9" or data[1:4] != b"\x49\x83\x42" or data[0] >> 4 != 8 or data[0] & 0x0C:
        return None
    bits = Bits(data[4:])
    if bits.take(3) != 7:  # of RGB, which has other profiles
        bits.take(1)
    return bits.take(16) + 1, bits.take(16) + 1


def is_leaf(packet: av.Packet, codec: str, top_layer: int | None = None) -> bool:
    """Whether a packet is known to hold a picture that no other is built on: damage of it ends with it.

    Args:
        top_layer: of HEVC: the last of the layers in time (from 0), where it is known.
    """
    if packet.size < 1 or packet.is_keyframe:
        return False
    if codec == "hevc":
        heads = [unit[:2] for unit in units(bytes(packet)) if len(unit) > 1 and unit[0] >> 1 < 32]
        return bool(heads) and all(
            head[0] >> 1 in _NO_REFERENCE and (head[1] & 7) - 1 == top_layer for head in heads
        )
    if codec == "h264":
        slices = [unit[0] for unit in units(bytes(packet)) if unit and unit[0] & 31 == _SLICE]
        return bool(slices) and not any(head >> 5 & 3 for head in slices)
    if codec in _OF_MPEG:
        mark, kind = _OF_MPEG[codec]
        _, found, head = bytes(memoryview(packet)[:_MPEG_HEAD_BYTES]).partition(mark)
        return bool(found) and len(head) > 1 and kind(head)
    return False


def top_layer(extradata: bytes | None) -> int | None:
    """The last of the layers in time (from 0) that a stream of HEVC has; None where that is not known."""
    data = extradata or b""
    if len(data) > 23 and data[0] == 1:
        return (data[21] >> 3 & 7) - 1 if data[21] >> 3 & 7 else None
    found = [
        unit[2] >> 1 & 7 for unit in after_start_codes(data) if len(unit) > 2 and unit[0] >> 1 == _HEVC_SPS
    ]
    return max(found, default=None)


def place_in_group(packet: av.Packet, codec: str) -> int | None:
    """Which picture of its group, as shown, a packet of MPEG-1 or MPEG-2 holds; None where it is unsaid."""
    if codec not in {"mpeg1video", "mpeg2video"}:
        return None
    _, found, head = bytes(memoryview(packet)[:_MPEG_HEAD_BYTES]).partition(_OF_MPEG[codec][0])
    return head[0] << 2 | head[1] >> 6 if found and len(head) > 1 else None


def is_refresh(data: bytes) -> bool:
    """Whether a packet of H.264 that is flagged as a keyframe begins with a slice that leans on others."""
    for unit in units(data):
        kind = unit[0] & 31 if unit else 0
        if kind == _IDR:
            return False
        if kind == _SLICE:
            bits = Bits(unit[1:12])
            try:
                bits.number()  # the first block of the slice
                return bits.number() not in _INTRA
            except ValueError:
                return True
    return False
