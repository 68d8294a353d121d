"""`rushes VERB ...`: the program. The verbs are listed in `manifests/cli/table.py`."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from pathlib import Path

_ended: list[int] = []


def _leave() -> None:
    """End at once where objects of a store were read, or Ray was at work.

    Registered before all else, so that it runs last. Threads of Arrow that still let go of a store's files,
    which are Python's, would abort a process whose Python has ended (SIGABRT, after all was printed); those
    of a Ray that was interrupted while it started now and then make it a SIGSEGV.
    """
    ranged = sys.modules.get("manifests.store.ranged")
    has_threads = "ray" in sys.modules or (ranged is not None and ranged.num_opened)
    if not _ended or not has_threads:
        return
    with contextlib.suppress(OSError, ValueError):  # what cannot be printed Python tells of as ever
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_ended[0])


def _is_program() -> bool:
    """Whether this process is `rushes`, and not another that calls `main`."""
    return Path(getattr(sys.modules["__main__"], "__file__", None) or "").name in ("rushes", "rushes.py")


def main() -> int:
    """Run a verb and return its exit code."""
    if _is_program():
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
