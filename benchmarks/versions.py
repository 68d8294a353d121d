"""The ingest of one film world by two checkouts, in turn: wall and CPU seconds, and their ratios.

    git worktree add /tmp/before REVISION
    python benchmarks/versions.py /tmp/before

Both run on the packages that are installed here, with the weights of this checkout.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from peer_runs import Run, adopt, run

HERE = Path(__file__).resolve().parents[1]


@dataclass
class Options:
    before: Annotated[Path, tyro.conf.Positional]
    """The other checkout."""
    films: int = 60
    stills: int = 20
    scale: float = 0.6
    rounds: int = 3
    options: tuple[str, ...] = ("--plan.shard-s", "60", "--caption.captioner", "coca")
    """Of `rushes ingest`; those of the demo."""


def ingest(checkout: Path, footage: Path, work: Path, options: tuple[str, ...]) -> Run:
    """One ingest into a new dataset, which goes again."""
    out, log = work / "dataset", work / "log.txt"
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-P", "-m", "rushes", "ingest", str(footage), "--out", str(out), *options]
    words += ["--encode.vae", str(HERE / "weights" / "vae-tiny-2")]
    found = run(words, environment, log, 1800)
    if found.code:
        raise SystemExit(f"{checkout} ended with {found.code}:\n{log.read_text()[-2000:]}")
    shutil.rmtree(out)
    return found


def main(asked: Options) -> None:
    adopt()
    runs: dict[Path, list[Run]] = {asked.before.resolve(): [], HERE: []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        counts = ["--films", str(asked.films), "--stills", str(asked.stills), "--scale", str(asked.scale)]
        films = [sys.executable, "-P", "-m", "rushes", "make-films", str(work / "footage"), *counts]
        run([*films, "--seed", "1"], {**os.environ, "PYTHONPATH": str(HERE)}, work / "log.txt", 1800)
        for number in range(asked.rounds):
            for checkout in sorted(runs, key=lambda one: (one == HERE) != number % 2):
                found = ingest(checkout, work / "footage", work, asked.options)
                runs[checkout].append(found)
                print(f"{checkout.name}: wall {found.wall_s:.1f} s, CPU {found.cpu_s:.1f} s", flush=True)
    print(f"\n{'checkout':<12}{'wall s':>10}{'CPU s':>10}   medians of {asked.rounds}")
    for checkout, found in runs.items():
        wall, cpu = (statistics.median(getattr(one, name) for one in found) for name in ("wall_s", "cpu_s"))
        print(f"{'here' if checkout == HERE else 'before':<12}{wall:>10.1f}{cpu:>10.1f}")
    before, here = runs.values()
    for name in ("wall_s", "cpu_s"):
        ratios = [getattr(b, name) / getattr(a, name) for a, b in zip(before, here, strict=True)]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(f"here over before, {name.removesuffix('_s')}: {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main(tyro.cli(Options))
