"""Ids: of a source a hash of its bytes; of a clip that of its source and where it begins, in milliseconds."""

from __future__ import annotations


def source_of(clip_id: str) -> str:
    """The id of the source that a clip is of."""
    return clip_id.rpartition("-")[0]
