"""Preview pictures as they are stored: JPEG until somebody looks at them.

A server is sent the stored bytes as they are, which saves decoding and encoding each picture again.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from PIL import Image

from media.decode.images import decode_image


class StoredFrames(Sequence[np.ndarray]):
    """Pictures [H, W, 3] uint8 that are decoded when they are asked for, each once.

    Args:
        encoded: the JPEG bytes of each.
    """

    def __init__(self, encoded: Sequence[bytes]) -> None:
        self.encoded = list(encoded)
        self._decoded: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.encoded)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> StoredFrames: ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return StoredFrames(self.encoded[index])
        place = range(len(self.encoded))[index]
        if place not in self._decoded:
            self._decoded[place] = decode_image(self.encoded[place])
        return self._decoded[place]


def some_of(frames: Sequence[np.ndarray], chosen: Sequence[int]) -> Sequence[np.ndarray]:
    """Some of the pictures, still encoded where they are."""
    if isinstance(frames, StoredFrames):
        return StoredFrames([frames.encoded[index] for index in chosen])
    return [frames[index] for index in chosen]


def jpeg_as_stored(frames: Sequence[np.ndarray], index: int, max_pixels: int) -> bytes | None:
    """The stored bytes of a picture; None where it is not stored as JPEG, or has more pixels than that."""
    if not isinstance(frames, StoredFrames):
        return None
    data = frames.encoded[index]
    with Image.open(io.BytesIO(data)) as image:  # the header alone
        width, height = image.size
        is_jpeg = image.format == "JPEG"
    return data if is_jpeg and width * height <= max_pixels else None
