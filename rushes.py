"""`rushes VERB ...`: the program. The verbs are listed in `manifests/cli/table.py`."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from pathlib import Path

_ended: list[int] = []


def _leave() -> None:
    """End at once where an object store was read.

    Registered before all else, so that it runs last. Threads of Arrow that still let go of a store's files,
    which are Python's, would abort a process whose Python has ended (SIGABRT, after all was printed).
    """
    if _ended and "manifests.store.objects" in sys.modules:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(_ended[0])


def main() -> int:
    """Run a verb and return its exit code."""
    atexit.register(_leave)
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # ours before folders of the same names
    from manifests.signals import unwinding

    with unwinding():
        from manifests.cli import main as run

    code = run()
    _ended[:] = [code]
    return code


if __name__ == "__main__":
    sys.exit(main())
