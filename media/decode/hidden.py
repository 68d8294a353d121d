"""Packets that show nothing: VP8 and VP9 store frames that only others are built on.

In files of some writers these are packets of their own. Counted as frames they would make the rate too high,
and a sound file look as if frames were missing. Sources: RFC 6386 section 9.1; VP9 bitstream specification
sections 6.2 and B.2.
"""

from __future__ import annotations

import av


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
