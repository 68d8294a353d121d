"""Images by Pillow: stills as one-frame videos, animated WebP, APNG and AVIF with their own frame times.

What phones write as HEIC is read through libheif, which puts its tiles together and turns it upright.

EXIF orientation is applied. Colours are brought to sRGB from the profile that a picture carries, or from PQ
and HLG as those of films are. Transparent pixels are laid over white, as a browser page would show them.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from typing import BinaryIO

import cv2
import numpy as np
import pi_heif
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from media.bytes.access import opened
from media.decode.color import tone_map

PAGED = {"MPO", "TIFF", "HEIF"}
"""Formats whose further pictures are no animation."""
PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = 16 << 20, 64 << 20
"""Of what stands beside a PNG's picture, unpacked; tools write settings of megabytes there."""
pi_heif.register_heif_opener(thumbnails=False)
pi_heif.options.DECODE_THREADS = 1  # more files at once beat more threads a file
_INVERTED = 262, 0
"""TIFF's tag of what grey values mean, where 0 is white."""
_ANIMATED, _HAS_ALPHA = 0x02, 0x10  # flags of a WebP
_BITS, _KIND = 258, 339  # TIFF's tags of each sample
_ROWS = 256
_MOST_OFF_SRGB = 24  # steps that a profile named sRGB may be off and still be taken for it
_MOST_JPEG_PX = 65500
_DEFAULT_FRAME_S = 0.1  # what browsers use for an animation frame without a duration


def first_frame(image: Image.Image) -> int:
    """The place of an animation's first frame: before it an APNG may hold a picture for older programs."""
    return int(bool(getattr(image, "default_image", False)) and getattr(image, "n_frames", 1) > 1)


def frame_times_s(image: Image.Image) -> tuple[list[float], float]:
    """Start time of each frame of an animation, and the last frame's duration."""
    times, now, step = [], 0.0, _DEFAULT_FRAME_S
    for index in range(first_frame(image), getattr(image, "n_frames", 1)):
        image.seek(index)
        image.load()
        times.append(round(now, 6))
        step = (float(image.info.get("duration") or 0) / 1000.0) or _DEFAULT_FRAME_S
        now += step
    return times, step


def to_rgb(image: Image.Image, width: int, height: int, transfer: str = "sdr") -> np.ndarray:
    """[height, width, 3] uint8, upright, over white, area averaged when smaller.

    Args:
        transfer: `sdr`, `pq` or `hlg`, as the file says.
    """
    most = 65535.0 if image.format == "PPM" and image.mode[0] == "I" else _most_of_tiff(image)
    is_inverted = getattr(image, "tag_v2", {}).get(_INVERTED[0], 1) == _INVERTED[1]
    profile, alpha, form = image.info.get("icc_profile"), None, image.format
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        deep, hidden = np.asarray(image), image.info.get("transparency")
        if isinstance(hidden, int):
            alpha = Image.fromarray(np.where(deep == hidden, 0, 255).astype(np.uint8))
        grey = _eight_bits(deep, most)
        image = Image.fromarray(255 - grey if is_inverted else grey)
    elif image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if form == "TGA" and alpha.getextrema()[1] == 0:
            alpha = None  # some programs write a fourth byte that says nothing
    image = _in_srgb(image, profile) if transfer == "sdr" else _tone_mapped(image, transfer)
    if alpha is not None:
        image.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.size != (width, height):
        image = image.resize(
            (width, height), Image.Resampling.BOX if width < image.width else Image.Resampling.BICUBIC
        )
    return np.asarray(image).copy()


def _most_of_tiff(image: Image.Image) -> float:
    """White of a TIFF of grey integers of so many bits as it says; 0 where it says nothing of use."""
    tags = getattr(image, "tag_v2", {})
    (bits, *more), (kind, *_) = tags.get(_BITS, (0,)), tags.get(_KIND, (1,))
    return float(2**bits - 1) if not more and kind == 1 and 8 < bits <= 16 else 0.0


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture of any mode in sRGB; by its values alone where it has no profile, or one that is damaged."""
    plain = image if image.mode in {"L", "CMYK", "LAB"} else image.convert("RGB")
    if profile:
        # one of another kind of picture, or damaged, says nothing
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            if not _is_srgb(profile):
                own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
                plain = ImageCms.profileToProfile(plain, own, srgb, outputMode="RGB") or plain
    return plain.convert("RGB")


@functools.lru_cache(64)
def _is_srgb(profile: bytes) -> bool:
    """Whether a profile says by its name that it is sRGB, and is about that."""
    own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    if "srgb" not in ImageCms.getProfileDescription(own).lower():
        return False
    steps = np.linspace(0, 255, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    shown = ImageCms.profileToProfile(Image.fromarray(colours), own, srgb, outputMode="RGB")
    return bool(np.abs(np.asarray(shown).astype(int) - colours).max() <= _MOST_OFF_SRGB)


def _tone_mapped(image: Image.Image, transfer: str) -> Image.Image:
    """A picture of HDR code values as films of such are shown, some rows at a time."""
    codes = np.asarray(image.convert("RGB"))
    parts = (codes[row : row + _ROWS] for row in range(0, len(codes), _ROWS))
    return Image.fromarray(np.concatenate([tone_map(part / np.float32(255), transfer) for part in parts]))


def _eight_bits(deep: np.ndarray, most: float = 0.0) -> np.ndarray:
    """Grey of 16 or 32 bits as 8.

    Args:
        most: white; that of the smallest range which holds all values where it is not known.

    Raises:
        ValueError: its values are of no range that pictures have.
    """
    finite = np.nan_to_num(deep.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    most = most or (65535.0 if deep.dtype.kind == "u" and deep.dtype.itemsize == 2 else 0.0)
    known = (255.0, 65535.0, 4294967295.0) if deep.dtype.kind in "iu" else (1.0, 255.0, 65535.0)
    most = most or next((top for top in known if finite.max() <= top), 0.0)
    if finite.min() < 0 or finite.max() > most:
        raise ValueError(f"grey values from {finite.min():g} to {finite.max():g} are of no known range")
    return (finite * (256.0 / (most + 1.0)) if most > 1 else finite * 255.0).clip(0, 255).astype(np.uint8)


def _see_through(file: str | BinaryIO) -> str | BinaryIO:
    """The same file; of an animated WebP that claims to cover all of its canvas one that does not.

    What no part of such an animation covers is to be seen through, and would be black.
    """
    with open(file, "rb") if isinstance(file, str) else contextlib.nullcontext(file) as source:
        head = bytearray(source.read(21))
        rest = source.read() if head[8:16] == b"WEBPVP8X" else b""
        source.seek(0)
    if not rest or head[20] & (_ANIMATED | _HAS_ALPHA) != _ANIMATED:
        return file
    head[20] |= _HAS_ALPHA
    return io.BytesIO(bytes(head) + rest)


def animation_frames(
    path: str, width: int, height: int, transfer: str = "sdr"
) -> Iterator[tuple[float, np.ndarray]]:
    """(time_s, frame) of an animation, or the one frame of a still; arguments as of `to_rgb`."""
    with opened(path) as file, Image.open(_see_through(file)) as image:
        times = (
            frame_times_s(image)[0]
            if getattr(image, "is_animated", False) and image.format not in PAGED
            else [0.0]
        )
        first = first_frame(image)
        for index, time_s in enumerate(times):
            if len(times) > 1 or first:
                image.seek(first + index)
            yield time_s, to_rgb(image, width, height, transfer)


def encode_jpeg(rgb: np.ndarray, quality: int = 90) -> bytes:
    """[H, W, 3] uint8 as JPEG, colour at half resolution."""
    if max(rgb.shape[:2]) > _MOST_JPEG_PX:  # OpenCV's limit, which it tells by no bytes
        raise OSError(f"a JPEG has at most {_MOST_JPEG_PX} pixels a side, not {max(rgb.shape[:2])}")
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def encode_png(rgb: np.ndarray, comment: str = "") -> bytes:
    """A PNG of [H, W, 3] uint8; `comment` goes into its metadata."""
    sink, info = io.BytesIO(), PngInfo()
    if comment:
        info.add_itxt("Comment", comment)
    Image.fromarray(rgb).save(sink, "PNG", pnginfo=info)
    return sink.getvalue()


def decode_image(data: bytes) -> np.ndarray:
    """[H, W, 3] uint8 of an encoded image held in memory."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).copy()
