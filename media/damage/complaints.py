"""What FFmpeg writes to its log and says nowhere else.

Of a packet that a decoder takes all the same it is the only sign of most damage in H.264 and HEVC.

FFmpeg conceals what it cannot decode and writes a line to its log. How few frames of sound files that costs:
tests/pipeline/curate/test_accounts.py.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import av.logging

_SPARED = re.compile(r"Could not find ref|Error constructing the frame RPS|NAL units|Invalid NAL unit size")
"""Of HEVC: a picture is missing. FFmpeg gives out none that is built on it."""
_UNREF = re.compile("mmco: unref short failure|number of reference frames .* exceeds max")
"""Of H.264: a picture that is to be forgotten is not there, as after a cut, or too many are kept. Whether a
reference is missing its numbers tell."""
_SKIPPED = re.compile("Skipping invalid undecodable NALU")
"""Of HEVC: a picture was left out; of itself, or because of those that miss others."""
_WORDY = {"hevc", "vp9", "libdav1d"}
"""Decoders that call lost frames a warning."""


_CONCEALED = re.compile(r"concealing \d+ DC, \d+ AC, \d+ MV errors")
"""Of H.264, MPEG-1, -2 and -4 and their kin: a picture's last blocks never came, as where a flipped bit ends
a slice early. FFmpeg calls it information."""

_OF_OTHERS = re.compile(r"co located|missing|mmco|frame num", re.IGNORECASE)
"""Of H.264: what a picture leans on is not there."""


def name_of_codec(open_again: Callable[[], AbstractContextManager]) -> str:
    """What FFmpeg calls a stream that it cannot decode, as `none (zzzz / 0x7A7A7A7A)`; empty for nothing.

    Args:
        open_again: opens the container.
    """
    before = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as lines, open_again():
            pass
    finally:
        av.logging.set_level(before)
    found = (re.search(r"Video: ([^,)]*\)?)", text) for _, _, text in lines)
    return next((name.group(1).strip() for name in found if name), "")


def speaks_of_others(said: list[str]) -> bool:
    """Whether a decoder complains of pictures that a packet's own leans on: others may lean on them too."""
    return any(_OF_OTHERS.search(text) for text in said)


def is_spared(codec: str, said: list[str]) -> bool:
    """Whether all that a decoder said of a packet tells of no damage in the frames that come.

    Args:
        codec: FFmpeg's name of it.
        said: what `complaints` collected; of none nothing is known.
    """
    if codec == "h264" and said and all(_UNREF.search(text) for text in said):
        return True
    is_missing = any(_SPARED.search(text) for text in said)
    known = (_SPARED.search(text) or (is_missing and _SKIPPED.search(text)) for text in said)
    return codec == "hevc" and is_missing and all(known)


@contextlib.contextmanager
def complaints() -> Iterator[list[str]]:
    """Collect what decoders complain of, in this thread, inside the `with` block; empty until it ends."""
    found: list[str] = []
    before, is_short = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(
        False
    )  # else how often it was said comes with the next line, of another file
    try:
        with av.logging.Capture() as lines:
            yield found
    finally:
        av.logging.set_level(before)
        av.logging.set_skip_repeated(is_short)
    found += [
        text.strip()
        for level, name, text in lines
        if level <= av.logging.ERROR
        or (name in _WORDY and level <= av.logging.WARNING)
        or _CONCEALED.search(text)
    ]
