"""The one error of media: a file that cannot be had or cannot be read.

Addresses in it never show a password or a signature.
"""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)[^/\s?#]+@")
_QUERY = re.compile(r"(?<=\?)[^\s#'\",;)]+")


def shown(text: str) -> str:
    """The text without user and password of addresses, and without the query of http addresses."""
    text = _USER.sub("***@", text)
    return re.sub(r"https?://\S+", lambda match: _QUERY.sub("...", match.group()), text)


class MediaError(Exception):
    """A media file cannot be read. `reason` is a short stable word, the message says what and where."""

    def __init__(self, reason: str, message: str) -> None:
        message = shown(message)
        super().__init__(f"{reason}: {message}")
        self.reason, self.message = reason, message

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.message)
