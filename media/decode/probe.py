"""Probing: what a media file really is.

Headers lie (durations, frame counts), so the packets of the whole stream are read, without decoding them, and
one frame is decoded. The result says what a viewer would see (geometry, times) and which decoder is right for
it: decord or PyAV for videos (`media.decode.video_facts`), Pillow for still images and animated WebP.
"""

from __future__ import annotations

import av

from media.bytes.access import stat_media
from media.decode import limits
from media.decode.color import transfer_name
from media.decode.container.edits import unfollowed_edits
from media.decode.container.joined import has_film_after
from media.decode.container.marks import boxes
from media.decode.container.packets import LATE_STREAM, MAX_GAP_S
from media.decode.facts import Probe
from media.decode.geometry import Geometry
from media.decode.stills.probing import probe_image
from media.decode.stills.tiff import why_not
from media.decode.video_facts import VideoFacts, video_facts
from media.errors import MediaError

av.logging.set_level(av.logging.PANIC)

_STILL_CONTAINERS = ("_pipe", "image2")


def _remarks(facts: VideoFacts) -> str:
    """What a user should know of a file that is read all the same."""
    remarks, packets, head = [], facts.packets, facts.head
    declared_s, duration_s = head.declared_s, facts.duration_s
    if head.num_others:
        remarks.append(f"{head.num_others} further video streams are left out")
    if LATE_STREAM in packets.warnings:
        remarks.append("another stream that comes up on the way is left out")
    if head.container == "mov" and (others := boxes(facts.path)["moov"] - 1) > 0:
        remarks.append(f"{others} further films joined behind this one are left out")
    if head.container == "mov" and (edits := unfollowed_edits(facts.path)):
        remarks.append(edits)
    if has_film_after(facts.path, head.container, packets.end_bytes):
        remarks.append("a further film joined behind this one is left out")
    if head.told_aspect and float(head.told_aspect) != head.sample_aspect:
        remarks.append(f"pixels {float(head.told_aspect):g} times as wide as high are taken for square ones")
    if declared_s and abs(declared_s - duration_s) > max(0.5, 0.1 * duration_s):
        remarks.append(f"header declares {declared_s:.3f} s, packets cover {duration_s:.3f} s")
        if head.num_told > len(packets.times_s) and declared_s > duration_s:
            remarks.append(
                f"the index names pictures that are not in it, for {declared_s - duration_s:.3f} s"
            )
    if packets.gap_s:
        remarks.append(f"no frame for {packets.gap_s:.3f} s after {packets.gap_at_s:.3f} s")
    return "; ".join(remarks)


def probe(path: str) -> Probe:
    """Facts of a media file, at a path or any address that `media.bytes.access` reads.

    Raises:
        MediaError: the file is missing, is no media, has no video stream, or not one frame can be decoded.
    """
    if stat_media(path)[0] == 0:
        raise MediaError("empty", f"{path} has no bytes")
    if why := why_not(path):
        raise MediaError(*why)
    if image := probe_image(path):
        return image
    facts = video_facts(path)
    packets, frame = facts.packets, facts.frame
    if packets.gap_s > MAX_GAP_S:
        raise MediaError(
            "implausible_clock",
            f"{path} has no frame for {packets.gap_s:.0f} s after {packets.gap_at_s:.3f} s: its times are "
            "broken; remux it",
        )
    geometry = Geometry(frame.width, frame.height, facts.head.sample_aspect, *facts.turn)
    limits.check_pixels(path, *geometry.display_size_px)
    reasons, duration_s = facts.reasons_against_decord(), facts.duration_s
    is_still = packets.num_packets == 1 and facts.head.container.endswith(_STILL_CONTAINERS)
    if is_still:
        duration_s = 0.0
    return Probe(
        path=path,
        kind="image" if is_still else "video",
        container=facts.head.container,
        codec=facts.head.codec,
        pixel_format=frame.format.name,
        geometry=geometry,
        start_s=packets.first_s,
        duration_s=round(duration_s, 6),
        declared_duration_s=round(facts.head.declared_s, 6),
        num_packets=packets.num_packets,
        fps=0.0 if is_still else round(facts.fps, 6),
        is_vfr=facts.is_vfr,
        has_audio=facts.head.has_audio,
        transfer=transfer_name(frame),
        is_interlaced=bool(frame.interlaced_frame),
        decoder="pyav" if reasons else "decord",
        decoder_reasons=tuple(reasons),
        detail="" if is_still else _remarks(facts),
    )
