"""Facts of stills and of animations that Pillow reads: WebP, APNG and AVIF."""

from __future__ import annotations

import struct
import warnings

from PIL import Image, UnidentifiedImageError

from media.bytes.access import opened
from media.decode import limits
from media.decode.container.joined import has_film_behind, has_picture_behind
from media.decode.container.marks import has_bare_frames, has_deep_samples, is_stream, still_transfer
from media.decode.facts import Probe
from media.decode.geometry import Geometry, is_uneven
from media.decode.images import PAGED, first_frame, frame_times_s
from media.errors import MediaError

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_STILLS = {"JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "PPM", "MPO"}
_WITH_CODES = {"AVIF", "HEIF", "PNG"}
_STILLS |= {"ICO", "JPEG2000", "PCX", "TGA", "HEIF"}


def _is_turned(image: Image.Image) -> bool:
    """Whether Pillow gives the upright size already, as its newer versions do of TIFF."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and image.size != (tags.get(256), tags.get(257))


def _remarks_on_still(path: str, image: Image.Image, pages: int) -> str:
    remarks = [f"{pages - 1} further pages are left out"] if pages > 1 else []
    if image.format in {"JPEG", "MPO"} and has_film_behind(path):
        remarks.append("a film behind the picture is left out")
    if has_picture_behind(path, image):
        remarks.append("further pictures joined behind this one are left out")
    return "; ".join(remarks)


def probe_image(path: str) -> Probe | None:
    """Facts of a still image or an animated WebP, APNG or AVIF by Pillow; None for other files."""
    try:
        with opened(path) as file, Image.open(file) as image:
            limits.check_pixels(path, *image.size)
            frames = getattr(image, "n_frames", 1) - first_frame(image)
            is_animation = image.format in {"GIF", "PNG"} and frames > 1
            is_whole = image.format == "PNG" or (is_animation and not has_bare_frames(path))
            if is_animation and is_whole and image.getexif().get(0x0112, 1) == 1:
                return None  # FFmpeg knows all ways in which one frame is laid over another
            if image.format == "JPEG2000" and has_deep_samples(path):
                return None  # Pillow rounds white to black
            is_light = image.format == "PPM" and image.mode == "F"  # which Pillow takes for shades
            if (
                image.format not in _STILLS
                or is_light
                or (image.get_format_mimetype() or "").endswith("-sequence")
            ):
                return None
            if image.format == "JPEG" and not image.getexif() and is_stream(path, image.size):
                return None
            is_still = image.format in PAGED or not getattr(image, "is_animated", False)
            turned = image.getexif().get(0x0112, 1) >= 5 and not _is_turned(image)  # 5 to 8 swap the axes
            width, height = (image.height, image.width) if turned else image.size
            times, duration = list[float](), 0.0
            if not is_still:
                times, last = frame_times_s(image)
                duration = times[-1] + last
            return Probe(
                path=path,
                kind="image" if is_still else "video",
                container=str(image.format).lower(),
                codec=str(image.format).lower(),
                pixel_format=image.mode,
                geometry=Geometry(width, height),
                start_s=0.0,
                duration_s=duration,
                declared_duration_s=0.0,
                num_packets=1 if is_still else frames,
                fps=0.0 if is_still else frames / max(duration, 1e-3),
                is_vfr=is_uneven(times),
                has_audio=False,
                transfer=still_transfer(path) if image.format in _WITH_CODES else "sdr",
                is_interlaced=False,
                decoder="pillow",
                decoder_reasons=("still image",) if is_still else ("animated image",),
                detail=_remarks_on_still(path, image, frames) if is_still else "",
            )
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        RuntimeError,
        IndexError,
        EOFError,
        struct.error,
    ):
        return None
    except Image.DecompressionBombError as error:
        raise MediaError(
            "too_large",
            f"{path}: has more pixels than the {limits.MAX_PIXELS:,} that are read. {limits.NAME} sets them.",
        ) from error
