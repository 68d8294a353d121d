"""How busy the actors of the slowest stage of an ingest are in its steady state, from the run's own events.

    python benchmarks/utilisation.py [--films 60] [--footage FOLDER] [--assert]

Films of the film world are made, or a folder of yours is taken, and ingested on a Ray of this machine's
processors in small shards; `rushes status --json` says rates and waits of each stage.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

AIM = 0.9
ROOT = Path(__file__).parents[1]


def rushes(*arguments: str) -> str:
    """A verb as a process of its own; what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}
    command = [sys.executable, "-P", "-m", "rushes", *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode not in (0, 3):
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def main() -> int:
    """Ingest and look."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--films", type=int, default=60)
    parser.add_argument("--footage", type=Path)
    parser.add_argument("--shard-s", type=float, default=20.0)
    parser.add_argument("--assert", dest="asserts", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder:
        footage = given.footage or Path(folder, "films")
        if not given.footage:
            rushes("make-films", str(footage), "--films", str(given.films), "--stills", "0")
        dataset = f"{folder}/ds"
        rushes("ingest", str(footage), "--out", dataset, "--plan.shard-s", str(given.shard_s))
        found = json.loads(rushes("status", dataset, "--json"))["rates"]
    print(f"{'stage':10} shards at once  clips/s  busy  waits for input  waits to be handed one")
    for one in found:
        waits = f"{one['input_wait']:16.0%} {one['hand_wait']:23.0%}"
        counts = f"{one['jobs']:6} {one['actors']:7} {one['items_per_s']:8.2f}"
        print(f"{one['stage']:10} {counts} {one['busy']:5.0%} {waits}")
    slowest = max(found, key=lambda one: one["cpu_s"] / one["actors"])
    print(f"slowest: {slowest['stage']}, {slowest['busy']:.3f} of its actors' time (aim {AIM})")
    return int(given.asserts and slowest["busy"] < AIM)


if __name__ == "__main__":
    sys.exit(main())
