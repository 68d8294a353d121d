"""Errors a user can act on: each names the thing, the cause and the next step."""

from __future__ import annotations


class RushesError(Exception):
    """An error with three parts, printed on one line each.

    Args:
        subject: the file, clip, shard or option it is about.
        cause: what is wrong with it.
        next_step: what the user can do.
    """

    exit_code = 1

    def __init__(self, subject: str, cause: str, next_step: str = "") -> None:
        super().__init__(subject, cause, next_step)
        self.subject, self.cause, self.next_step = subject, cause, next_step

    def __str__(self) -> str:
        text = f"{self.subject}: {self.cause}"
        return f"{text}. {self.next_step}" if self.next_step else text


class UsageError(RushesError):
    """The command line or a configuration asks for something that cannot be."""

    exit_code = 2


class IntegrityError(RushesError):
    """Stored bytes are not the bytes that were committed."""

    exit_code = 4
