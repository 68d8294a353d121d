"""`python -m trainer VERB`: from a checkout, the same verbs as `rushes VERB`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # ours before folders of the same names
    from manifests.cli import main

    sys.exit(main("trainer"))
