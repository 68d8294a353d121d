"""Open Bitstream Units of AV1, each given to the decoder by itself.

A packet holds a picture to be shown, and mostly hidden ones before it. Where one of them is damaged dav1d
refuses all of the packet, and with it pictures that are sound, so that it then refuses what leans on those.
Unit by unit it refuses only what is damaged, or leans on what is.

Of layers of one picture, coarse and fine, dav1d would give out the coarse one as soon as it is given by
itself: such packets stay whole, and so do those whose pictures are not shown, which a copy would not tell.

Source: AV1 Bitstream & Decoding Process Specification, sections 4.10.5 (leb128) and 5.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import cast

import av
from av.video.codeccontext import VideoCodecContext

_HAS_EXTENSION, _HAS_SIZE = 4, 2
_MOST_SIZE_BYTES = 8
_SEQUENCE_HEADER, _PADDING = 1, 15
_MOST_UNITS = 64
"""Of a packet that is given unit by unit: more are no pictures."""


def apart(packet: av.Packet) -> list[av.Packet]:
    """One packet for each unit, of the same time; the packet itself where it is not to be taken apart."""
    if not packet.size or packet.is_discard:
        return [packet]
    units = list(islice(_units(bytes(packet)), _MOST_UNITS + 1))
    if not 1 < len(units) <= _MOST_UNITS or any(map(_is_of_layer, units)):
        return [packet]
    return [_like(packet, unit) for unit in units if unit[0] >> 3 & 15 != _PADDING]


def sequence_headers(packet: av.Packet) -> list[bytes]:
    """The units of a packet that say what its stream is, which stand before keyframes."""
    return [unit for unit in _units(bytes(packet)) if unit[0] >> 3 & 15 == _SEQUENCE_HEADER]


def is_refused(header: bytes) -> bool:
    """Whether dav1d, being strict, refuses what a stream says of itself, whatever its pictures are.

    Some encoders write there what no picture depends on and the standard forbids.
    """
    decoder = cast(VideoCodecContext, av.CodecContext.create("libdav1d", "r"))
    decoder.options, decoder.thread_count = {"strict": "1"}, 1
    try:
        decoder.decode(av.Packet(header))
    except av.FFmpegError:
        return True
    return False


def _is_of_layer(unit: bytes) -> bool:
    """Whether a unit is of a finer layer of a picture."""
    return len(unit) > 1 and bool(unit[0] & _HAS_EXTENSION) and unit[1] >> 3 & 3 > 0


def _units(data: bytes) -> Iterator[bytes]:
    """The units of a packet; what is left where one says a size that cannot be."""
    begin = 0
    while begin < len(data):
        head, at, size = data[begin], begin + 1, 0
        at += bool(head & _HAS_EXTENSION)
        if head & _HAS_SIZE:
            for place in range(_MOST_SIZE_BYTES):
                byte = data[at] if at < len(data) else 0
                size, at = size | (byte & 127) << 7 * place, at + 1
                if byte < 128:
                    break
        else:
            size = len(data)
        yield data[begin : at + size]
        begin = at + size


def _like(packet: av.Packet, data: bytes) -> av.Packet:
    part = av.Packet(data)
    part.pts, part.dts, part.duration = packet.pts, packet.dts, packet.duration
    part.is_keyframe = packet.is_keyframe
    if packet.time_base is not None:
        part.time_base = packet.time_base
    return part
