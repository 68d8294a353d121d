"""Errors as one line: the thing, the cause, the next step; and the exit code that belongs to them."""

from __future__ import annotations

import errno
from concurrent.futures.process import BrokenProcessPool

from manifests.cli.output import FAILED, USAGE, printable
from manifests.errors import RushesError

_NEXT_STEPS = {
    errno.EACCES: "Change its permissions, or name another place.",
    errno.EPERM: "Change its permissions, or name another place.",
    errno.EROFS: "The disk is read-only: name another place.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "A part of the path is a file: check it.",
    errno.EISDIR: "It is a folder: name a file.",
    errno.ENOSPC: "Free some space and run the same command again.",
    errno.EDQUOT: "Free some space and run the same command again.",
    errno.EFBIG: "Raise the limit of a file's size (ulimit -f), or name another place.",
    errno.ENAMETOOLONG: "Give it a shorter name.",
    errno.EADDRINUSE: "Something else listens there: give another port.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n) and run again.",
    errno.EIO: "The disk or the network reports an error: check it and run again.",
}


def failure_of(error: BaseException) -> tuple[str, int] | None:
    """The line that tells a user of an error, and the exit code; None for what only we can have caused."""
    if isinstance(error, RushesError):
        return printable(str(error)), error.exit_code
    if isinstance(error, OSError):
        subject = str(error.filename) if error.filename is not None else ""
        if error.filename2 is not None:
            subject += f" -> {error.filename2}"
        cause = error.strerror or str(error) or type(error).__name__
        step = _NEXT_STEPS.get(error.errno or 0, "")
        line = f"{subject or type(error).__name__}: {cause[0].lower()}{cause[1:]}"
        return printable(f"{line}. {step}" if step else line), FAILED
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"{ascii(error.object)[:200]}: is no UTF-8. Write it in UTF-8, or rename it.", USAGE
    if isinstance(error, BrokenProcessPool):
        return (
            "a process of this command died before its work was done, often for lack of memory. "
            "Free some, or start fewer of them (--workers), and run the same command again."
        ), FAILED
    return None
