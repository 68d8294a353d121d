"""Open Bitstream Units of AV1, each given to the decoder by itself.

A packet holds a picture to be shown, and mostly hidden ones before it. Where one of them is damaged dav1d
refuses all of the packet, and with it pictures that are sound, so that it then refuses what leans on those.
Unit by unit it refuses only what is damaged, or leans on what is.

Source: AV1 Bitstream & Decoding Process Specification, sections 4.10.5 (leb128) and 5.3.
"""

from __future__ import annotations

from collections.abc import Iterator

import av

_HAS_EXTENSION, _HAS_SIZE = 4, 2
_MOST_SIZE_BYTES = 8


def apart(packet: av.Packet) -> list[av.Packet]:
    """One packet for each unit, of the same time; the packet itself where there is but one, or none."""
    units = list(_units(bytes(packet))) if packet.size else []
    return [_like(packet, unit) for unit in units] if len(units) > 1 else [packet]


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
