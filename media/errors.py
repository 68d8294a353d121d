"""The one error of media: a file that cannot be had or cannot be read.

Addresses in it never show a password or a signature.
"""

from __future__ import annotations

from manifests.text import shown

__all__ = ["MediaError", "shown", "why"]


class MediaError(Exception):
    """A media file cannot be read. `reason` is a short stable word, the message says what and where."""

    def __init__(self, reason: str, message: str) -> None:
        message = shown(message)
        super().__init__(f"{reason}: {message}")
        self.reason, self.message = reason, message

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.message)


def why(error: Exception) -> str:
    """What an error of a library says, in one line: FFmpeg's without its number and the path."""
    return str(getattr(error, "strerror", None) or "") or next(iter(str(error).splitlines()), "")
