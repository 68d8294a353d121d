"""Memory and time of `rushes sample` by length and by size, each in a process of its own on a CPU.

    python benchmarks/sampling.py [MODEL] [--only long] [--only large]

long: 60 s beside 10 s at 96 x 64, made window by window. large: an image of 2048 x 2048 pixels, and five
seconds of 1920 x 1080 at 12 frames a second, from noise to file. One step without guidance: steps cost time,
not memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from media.decode.probe import probe

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--steps", "1", "--guidance", "1", "--solver", "euler", "--no-upsample", "--seed", "0")
PROMPT = ("--prompt", "A large red ball that moves to the right on a meadow, in daylight.")

LONG = {
    "10 s of 96 x 64": ("--width", "96", "--height", "64", "--seconds", "10", "video.mp4"),
    "60 s of 96 x 64": ("--width", "96", "--height", "64", "--seconds", "60", "video.mp4"),
}
LARGE = {
    "an image of 2048 x 2048": ("--width", "2048", "--height", "2048", "image.png"),
    "5 s of 1920 x 1080": (
        *("--width", "1920", "--height", "1080", "--seconds", "5"),
        *("--window", "3", "--overlap", "1", "video.mp4"),
    ),
}


def measured(name: str, model: str, words: tuple[str, ...]) -> float:
    """Print what a sample took; returns the most memory of its process, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / words[-1]
        command = ["-m", "rushes", "sample", model, *QUICK, *PROMPT, *words[:-1], "--out", str(out)]
        begin = time.perf_counter()
        started = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(started.pid, 0)
        if status:
            raise SystemExit(f"{name}: exit status {os.waitstatus_to_exitcode(status)}")
        facts = probe(str(out))
        width, height = facts.geometry.display_size_px
        most = used.ru_maxrss / 1024
        print(
            f"{name}: {most:.0f} MiB, {time.perf_counter() - begin:.0f} s; "
            f"{width} x {height}, {facts.duration_s or 0:.2f} s"
        )
        return most


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="dit-tiny")
    parser.add_argument("--only", choices=["long", "large"])
    given = parser.parse_args()
    if given.only in (None, "long"):
        ten, sixty = (measured(name, given.model, words) for name, words in LONG.items())
        print(f"a minute takes {sixty / ten:.2f} times the memory of ten seconds")
    if given.only in (None, "large"):
        for name, words in LARGE.items():
            measured(name, given.model, words)


if __name__ == "__main__":
    main()
