"""Near-duplicates of many clips: CPU time and memory of the search, and what it finds.

    python benchmarks/dedup.py --clips 50000 200000 [1000000] [--assert]

Hashes are drawn: moving pictures of falling spectrum, 6 to 16 frames each; two in a hundred are copies of
others, with noise and another cut. What Ray would keep in its object store lies in files here, mapped when
used. At the smallest size groups are compared with those of a search that leaves no comparison out.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from media.measure.videohash import GRID, VideoHash, View
from pipeline.dedup import near_duplicates, search
from pipeline.dedup.near_duplicates import find_groups
from pipeline.dedup.search import Frames

COPIES = 0.02
AIMS = {"cpu_s": 1200.0, "mb": 4000.0}
"""Of a million clips."""
_STRENGTH = 1 / (1 + np.hypot(*np.mgrid[:GRID, :GRID])) ** 1.2
_BASIS = np.cos(np.pi * np.arange(GRID)[:, None] * (np.arange(GRID)[None] + 0.5) / GRID)


def drawn(number: int) -> bytes:
    """The hash of a clip; of every fiftieth, that of a copy of the one before it."""
    is_copy = number % round(1 / COPIES) == 1
    chance = np.random.default_rng(number - is_copy)
    frames = int(chance.integers(6, 17))
    wave = chance.normal(size=(2, 3, GRID, GRID)) * _STRENGTH
    phase = np.linspace(0, chance.uniform(0.3, 1.5), frames)
    mixed = np.cos(phase)[:, None, None, None] * wave[0] + np.sin(phase)[:, None, None, None] * wave[1]
    cells = (_BASIS.T @ mixed @ _BASIS).transpose(0, 2, 3, 1) * [40, 16, 16] + 120
    times = np.arange(frames, dtype=np.float32) / 4
    if is_copy:
        own = np.random.default_rng(number)
        cells = cells[1:] * own.uniform(0.97, 1.03) + own.normal(size=cells[1:].shape) * 7
        times = times[:-1]
    return VideoHash((View(1.78, times, np.clip(cells, 0, 255).astype(np.uint8)),)).to_bytes()


class Drawn:
    """Hashes that are drawn again wherever they are needed, as stored ones are read."""

    def __init__(self, count: int) -> None:
        self.ids = [f"{number:08d}" for number in range(count)]

    def blocks(self) -> list[tuple]:
        step = near_duplicates.CLIPS_A_TASK
        return [(begin, min(begin + step, len(self.ids))) for begin in range(0, len(self.ids), step)]

    @staticmethod
    def read(*block: Any) -> list[bytes]:
        begin_s = time.process_time()
        found = [drawn(number) for number in range(*block)]
        _DRAWING["s"] += time.process_time() - begin_s
        return found

    def some(self, numbers: np.ndarray) -> dict[int, bytes]:
        return {int(number): self.read(number, number + 1)[0] for number in numbers}


_DRAWING = {"s": 0.0}


class OnDisk:
    """Arrays in a folder, mapped when they are used."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0

    def __call__(self, function: Callable[..., Any], jobs: Sequence[tuple], returns: int = 1) -> list[Any]:
        if returns == 1:
            return [function(*job) for job in jobs]
        return [[self._kept(value) for value in function(*job)] for job in jobs]

    def _kept(self, value: Any) -> Any:
        if isinstance(value, Frames):
            names = ("owner", "bits", "small", "log_aspects")
            return Frames(
                value.num_clips, value.num_flat, *(self._file(getattr(value, name)) for name in names)
            )
        return tuple(self._file(array) for array in value)

    def _file(self, array: np.ndarray) -> np.ndarray:
        if not len(array):
            return array
        self._count += 1
        path = self.folder / f"{self._count}.bin"
        array.tofile(path)
        return np.memmap(path, array.dtype, "r", shape=array.shape)


def own_memory_mb() -> float:
    """The most that this process held, without files that are mapped."""
    told = Path("/proc/self/status").read_text()
    return float(told.split("RssAnon:")[1].split()[0]) / 1000


def measure(count: int) -> tuple[dict[str, float], list]:
    """One search."""
    _DRAWING["s"], begin_s, begin_cpu_s = 0.0, time.perf_counter(), time.process_time()
    most, is_done = [0.0], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.1):
            most[0] = max(most[0], own_memory_mb())

    threading.Thread(target=watch, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder:
        groups, report = find_groups(Drawn(count), spread=OnDisk(Path(folder)))
    is_done.set()
    used = {
        "cpu_s": time.process_time() - begin_cpu_s - _DRAWING["s"],
        "wall_s": time.perf_counter() - begin_s,
        "mb": most[0],
    }
    copies = {f"{number:08d}" for number in range(count) if number % round(1 / COPIES) == 1}
    pairs = {tuple(sorted((found.kept, other))) for found in groups for other in found.others}
    right = sum(f"{int(name) - 1:08d}" == other for other, name in pairs if name in copies)
    print(
        f"{count:>9,} clips: {used['cpu_s']:.0f} CPU s, {used['wall_s']:.0f} s with drawing, "
        f"{used['mb']:.0f} MB; "
        f"{report.candidates:,} pairs compared, {len(groups)} groups, {right} of {len(copies)} copies found, "
        f"{len(pairs) - right} others; {report.capped_buckets:,} crowded buckets",
        flush=True,
    )
    return used, groups


def main() -> int:
    """Draw, search, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, nargs="+", default=[20_000, 50_000])
    parser.add_argument("--assert", dest="asserts", action="store_true")
    given = parser.parse_args()
    sizes = sorted(given.clips)
    found = {count: measure(count) for count in sizes}
    small, large = sizes[0], sizes[-1]
    search.candidates.__defaults__ = (1 << 30,)
    exact = measure(small)[1]
    is_same = exact == found[small][1]
    print(f"groups of {small:,} clips equal those of a search without a cap: {is_same}")
    if small < large:
        growth = math.log(found[large][0]["cpu_s"] / found[small][0]["cpu_s"]) / math.log(large / small)
        print(f"growth of CPU time: {growth:.2f}")
    scale = large / 1e6
    over = [name for name, aim in AIMS.items() if found[large][0][name] > aim * max(scale, 0.25)]
    print(f"over the aim for {large:,}: {', '.join(over) or 'nothing'}")
    return int(given.asserts and (bool(over) or not is_same))


if __name__ == "__main__":
    sys.exit(main())
