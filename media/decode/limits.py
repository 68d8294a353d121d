"""How large a picture may be: refused by what the file says of itself, before memory is given to it."""

from __future__ import annotations

import os

from PIL import Image

from manifests.errors import UsageError
from media.errors import MediaError

DEFAULT_PIXELS = 160_000_000
"""Decoding a picture of so many takes about 4 GB."""
NAME = "RUSHES_MAX_PIXELS"


def _from_environment() -> int:
    text = os.environ.get(NAME, str(DEFAULT_PIXELS))
    try:
        found = int(text)
    except ValueError:
        found = 0
    if found < 1:
        raise UsageError(f"{NAME}={text}", "is no number of pixels", f"Give one, such as {DEFAULT_PIXELS}.")
    return found


MAX_PIXELS = _from_environment()
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


def check_pixels(path: str, width: int, height: int) -> None:
    """Refuse a picture that is too large.

    Raises:
        MediaError: it has more pixels than may be.
    """
    if width * height > MAX_PIXELS:
        raise MediaError(
            "too_large",
            f"{path} has {width} x {height} pixels, more than {MAX_PIXELS}. {NAME} sets the limit.",
        )
