"""Facts of one source, as the probe finds them and as they are stored in the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from media.decode.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Facts of one source. Times count from its first presented frame."""

    path: str
    kind: str  # video | image
    container: str
    codec: str
    pixel_format: str
    geometry: Geometry
    start_s: float  # first presentation time in the file's own clock
    duration_s: float  # from the packets; 0 for an image
    declared_duration_s: float  # what the header claims; 0 if nothing
    num_packets: int
    fps: float  # packets per second, 0 for an image
    is_vfr: bool
    has_audio: bool
    transfer: str  # sdr | pq | hlg
    is_interlaced: bool  # its first frame is; such frames are deinterlaced
    decoder: str  # decord | pyav | pillow
    decoder_reasons: tuple[str, ...]  # why not decord
    detail: str = ""  # remarks: header and packets disagree, a gap in time

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Probe:
        """The probe that `dataclasses.asdict` made a tree of."""
        geometry, reasons = Geometry(**found["geometry"]), tuple(found["decoder_reasons"])
        return cls(**{**found, "geometry": geometry, "decoder_reasons": reasons})
