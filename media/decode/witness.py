"""The decoder that tells most of a damaged stream.

FFmpeg's own decoder of VP9 takes flipped bits and cut packets without a word. libvpx, the format's reference,
notices where a tile's bytes run out, and gives nothing from there to the next keyframe; of sound streams both
give the same pictures, at 1.1 times the time (`tests/media/decode/test_witness.py`).
"""

from __future__ import annotations

from typing import cast

import av
from av.video.codeccontext import VideoCodecContext

_STRICT = {"vp9": "libvpx-vp9"}
PROMPT = frozenset(_STRICT.values())
"""Decoders that give the frame of each packet at once, or have lost it; they do not mark keyframes."""
_OF_CONTAINER = ("color_trc", "color_primaries", "colorspace", "color_range")


def decoder_of(stream: av.VideoStream) -> VideoCodecContext:
    """The decoder for a stream's packets: the stricter one where FFmpeg has it, else the stream's own.

    See-through streams keep their own, which shows what browsers without alpha show.
    """
    own = stream.codec_context
    name = _STRICT.get(own.codec.canonical_name)
    if name not in av.codecs_available or stream.metadata.get("alpha_mode") == "1":
        return own
    made = cast(VideoCodecContext, av.CodecContext.create(name, "r"))
    made.thread_count, made.options = 1, own.options
    if own.extradata:
        made.extradata = own.extradata
    for field in _OF_CONTAINER:
        setattr(made, field, getattr(own, field))
    return made
