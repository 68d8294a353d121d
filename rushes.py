"""`rushes VERB ...`: the program. The verbs are listed in `manifests/cli/table.py`."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Run a verb and return its exit code."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # ours before folders of the same names
    from manifests.signals import unwinding

    with unwinding():
        from manifests.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
