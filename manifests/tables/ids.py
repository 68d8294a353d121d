"""Ids: of a source a hash of its bytes; of a clip that of its source and where it begins, in milliseconds."""

from __future__ import annotations


def source_of(clip_id: str) -> str:
    """The id of the source that a clip was cut from; the clip's own where it names none."""
    source, _, begin = clip_id.rpartition("-")
    return source if source and begin.isascii() and begin.isdigit() else clip_id
