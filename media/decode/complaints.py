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

_WORDY = {"hevc", "vp9", "libdav1d"}
"""Decoders that call lost frames a warning."""


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


@contextlib.contextmanager
def complaints() -> Iterator[list[str]]:
    """Collect what decoders complain of, in this thread, inside the `with` block; empty until it ends."""
    found: list[str] = []
    before = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as lines:
            yield found
    finally:
        av.logging.set_level(before)
    found += [
        text.strip()
        for level, name, text in lines
        if level <= av.logging.ERROR or (name in _WORDY and level <= av.logging.WARNING)
    ]
