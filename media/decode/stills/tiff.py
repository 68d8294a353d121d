"""What kind of TIFF a file is: some hold no picture that can be shown, others one that no reader here reads.

Sources: TIFF 6.0, sections 2 and 4; Adobe DNG 1.7, chapters 2 and 4. Raw files of most cameras are TIFFs of
the same build: a small picture first, and what the sensor saw elsewhere.
"""

from __future__ import annotations

import struct

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from media.bytes.access import open_binary

_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHERS = 330
_SUBFILE, _BITS, _MEANING, _PLANES, _KIND, _DNG = 254, 258, 262, 284, 339, 50706
_OF_SENSORS = {32803, 34892}  # a filter over each pixel; linear raw
_APART, _UNSIGNED, _FLOAT = 2, 1, 3


def _tags(path: str) -> ImageFileDirectory_v2 | None:
    """The tags of the first picture; None where the file is no TIFF, or they cannot be read."""
    with open_binary(path) as file:
        head = file.read(8)
        if not head.startswith(_MARKS):
            return None
        try:
            head += file.read(8) if head[2] == 43 or head[3] == 43 else b""
            found = ImageFileDirectory_v2(head)
            file.seek(found.next)
            found.load(file)
        except (SyntaxError, ValueError, TypeError, OSError, KeyError, IndexError, struct.error):
            return None
    return found


def why_not(path: str) -> tuple[str, str] | None:
    """The reason and a sentence why a TIFF's first picture is not read; None for all other files."""
    tags = _tags(path)
    try:
        return _reason(path, tags) if tags else None
    except (TypeError, ValueError, SyntaxError, KeyError, IndexError, struct.error):  # of damaged tags
        return None


def _reason(path: str, tags: ImageFileDirectory_v2) -> tuple[str, str] | None:
    is_small = int(tags.get(_SUBFILE, 0) or 0) & 1 and (tags.next or _OTHERS in tags)
    if _DNG in tags or tags.get(_MEANING) in _OF_SENSORS or is_small:
        return "raw_photograph", f"{path} is a raw photograph, or begins with a small copy; develop it first"
    bits, kind = tags.get(_BITS, (1,)), (tags.get(_KIND) or (_UNSIGNED,))[0]
    most = max(bits, default=1)
    is_planar = most > 8 and len(bits) > 1 and tags.get(_PLANES) == _APART
    is_wide = most > 16 and len(bits) > 1 and kind != _FLOAT
    if is_planar or is_wide or (kind == _FLOAT and most < 32):
        return (
            "image_decode",
            f"{path} is a TIFF of {len(bits)} samples of {most} bits (kind {kind}"
            f"{', in planes' if is_planar else ''}), which is not read; store it with 8 or 16 bits",
        )
    return None
