"""The decoder that tells most of a damaged stream.

FFmpeg's own decoder of VP9 takes flipped bits and cut packets without a word. libvpx, the format's reference,
notices where a tile's bytes run out, and gives nothing from there to the next keyframe; of sound streams both
give the same pictures, at 1.1 times the time (`tests/media/damage/test_witness.py`).
"""

from __future__ import annotations

from typing import cast

import av
from av.video.codeccontext import VideoCodecContext

_STRICT = {"vp9": "libvpx-vp9"}
_SEE_THROUGH = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Those that read how far each pixel may be seen through."""
PROMPT = frozenset(_SEE_THROUGH.values())
"""Decoders that give the frame of each packet at once, or have lost it; they do not mark keyframes."""
_DEEP = {"Profile 2", "Profile 3"}
_OF_CONTAINER = ("color_trc", "color_primaries", "colorspace", "color_range")


def _is_deep(context: VideoCodecContext) -> bool:
    parts = av.VideoFormat(context.pix_fmt).components if context.pix_fmt else ()
    return context.profile in _DEEP or any(part.bits > 8 for part in parts)


def is_see_through(stream: av.VideoStream) -> bool:
    """Whether a VP8 or VP9 stream carries alpha beside its pictures, as the container says."""
    return (
        stream.codec_context.codec.canonical_name in _SEE_THROUGH and stream.metadata.get("alpha_mode") == "1"
    )


def decoder_of(stream: av.VideoStream) -> VideoCodecContext:
    """The decoder for a stream's packets: the stricter one where FFmpeg has it, else the stream's own.

    Streams of more than eight bits keep their own, as libvpx is built here without them.
    """
    own = stream.codec_context
    name = (_SEE_THROUGH if is_see_through(stream) else _STRICT).get(own.codec.canonical_name)
    if name not in av.codecs_available or _is_deep(own):
        return own
    made = cast(VideoCodecContext, av.CodecContext.create(name, "r"))
    made.thread_count, made.options, made.flags = 1, own.options, own.flags
    if own.extradata:
        made.extradata = own.extradata
    for field in _OF_CONTAINER:
        setattr(made, field, getattr(own, field))
    return made
