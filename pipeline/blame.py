"""Whose fault an error is: an item's, which becomes a row, or the machine's, which stops the shard."""

from __future__ import annotations

import av

from manifests.errors import RushesError
from media.errors import MediaError


class HopelessError(RushesError):
    """What would befall every shard alike: the run ends, and nothing is held against an item."""


def blame(error: Exception) -> tuple[str, str]:
    """Reason and cause of an item's failure, for its row in `failures`.

    Raises:
        Exception: `error` itself, where it is the machine's fault and not the item's (a full disk, no memory,
            a store that does not answer).
    """
    if isinstance(error, MediaError):
        return error.reason, error.message
    if isinstance(error, OSError | MemoryError | RushesError) and not isinstance(error, av.FFmpegError):
        raise error
    return type(error).__name__, str(error)
