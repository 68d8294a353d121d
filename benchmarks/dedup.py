"""Near-duplicates of many clips: CPU time and memory of the search, and what it finds.

    python benchmarks/dedup.py --clips 50000 200000 [1000000] [--assert]

Then one clip in a hundred is new, of which two in a hundred are copies of old ones: what does it cost to look
for them with what the first search has kept, as a share of that search?

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from manifests.layout import Dataset
from media.measure.videohash import GRID, VideoHash, View
from pipeline.dedup import near_duplicates, search
from pipeline.dedup.kept import Kept
from pipeline.dedup.keys import Frames
from pipeline.dedup.known import keep, recall
from pipeline.dedup.near_duplicates import find_groups

COPIES, CLIPS_A_SHARD = 0.02, 100
AIMS = {"cpu_s": 1200.0, "mb": 4000.0}
"""Of a million clips."""
MORE, AIM_SHARE = 0.01, 0.03
"""So many clips are new in the second search; it may cost this share of the first (held from half a million
on, where what any search costs no longer counts)."""
_STRENGTH = 1 / (1 + np.hypot(*np.mgrid[:GRID, :GRID])) ** 1.2
_BASIS = np.cos(np.pi * np.arange(GRID)[:, None] * (np.arange(GRID)[None] + 0.5) / GRID)


def original(number: int) -> int:
    """Of which clip this is a copy: every fiftieth of the one before it, if new of an old one; or itself."""
    every = round(1 / COPIES)
    if number % every != 1:
        return number
    return (
        number - 1
        if number < _DRAWING["old"]
        else (number * 7919) % int(_DRAWING["old"]) // every * every + 10
    )


def drawn(number: int) -> bytes:
    """The hash of a clip."""
    is_copy = original(number) != number
    chance = np.random.default_rng(original(number))
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

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self.ids = [f"{number:08d}" for number in range(begin, end)]
        self.shards = np.arange(begin, end, dtype=np.int32) // CLIPS_A_SHARD

    def blocks(self) -> list[tuple]:
        step = near_duplicates.CLIPS_A_TASK
        return [(begin, min(begin + step, self.end)) for begin in range(self.begin, self.end, step)]

    @staticmethod
    def read(*block: Any) -> list[bytes]:
        begin_s = time.process_time()
        found = [drawn(number) for number in range(*block)]
        _DRAWING["s"] += time.process_time() - begin_s
        return found

    def some(self, clips: Mapping[str, int]) -> dict[str, bytes]:
        return {name: self.read(int(name), int(name) + 1)[0] for name in clips}


_DRAWING = {"s": 0.0, "old": math.inf}
"""Seconds of drawing so far; from which number on clips are new."""


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


@dataclass
class Measured:
    """One search."""

    cpu_s: float
    mb: float
    groups: list
    right: int
    copies: int


def measure(dataset: Dataset, begin: int, end: int) -> Measured:
    """Search for clips from `begin` on, with what is known of those before it; keep what is learnt."""
    _DRAWING["s"], begin_s, begin_cpu_s = 0.0, time.perf_counter(), time.process_time()
    most, is_done = [0.0], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.1):
            most[0] = max(most[0], own_memory_mb())

    threading.Thread(target=watch, daemon=True).start()
    digests = dict.fromkeys(range(math.ceil(end / CLIPS_A_SHARD)), "same")
    with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder:
        hashes, spread = Drawn(begin, end), OnDisk(Path(folder))
        known, kept = recall(dataset, "benchmark", digests if begin else {}), Kept(dataset, f"search-{end}")
        groups, matches, report = find_groups(hashes, spread=spread, known=known, keep=kept)
        clips = pa.table({"clip_id": hashes.ids, "shard": hashes.shards})
        new = {shard: "same" for shard in digests if shard >= begin // CLIPS_A_SHARD}
        keep(kept, "benchmark", known, new, clips, matches, groups)
    is_done.set()
    cpu_s, wall_s = time.process_time() - begin_cpu_s - _DRAWING["s"], time.perf_counter() - begin_s
    pairs = {tuple(sorted((found.kept, other))) for found in groups for other in found.others}
    copies = {f"{number:08d}": original(number) for number in range(end) if original(number) != number}
    right = sum(
        any(name in copies and copies[name] == int(other) for name, other in (pair, pair[::-1]))
        for pair in pairs
    )
    size = sum(path.stat().st_size for path in Path(dataset.root, "keys").rglob("*.parquet"))
    print(
        f"{end - begin:>9,} clips{f' beside {begin:,}' if begin else ''}: {cpu_s:.1f} CPU s, {wall_s:.0f} s "
        f"with drawing, {most[0]:.0f} MB; {report.candidates:,} pairs compared, {len(groups)} groups, "
        f"{right} of {len(copies)} copies found, {len(pairs) - right} others; "
        f"{report.capped_buckets:,} crowded buckets; {size / end:.0f} bytes kept a clip",
        flush=True,
    )
    return Measured(cpu_s, most[0], groups, right, len(copies))


def main() -> int:
    """Draw, search, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, nargs="+", default=[20_000, 50_000])
    parser.add_argument("--assert", dest="asserts", action="store_true")
    given = parser.parse_args()
    sizes, found, over = sorted(given.clips), dict[int, Measured](), list[str]()
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder:
            dataset = Dataset.create(f"{folder}/ds")
            found[count] = measure(dataset, 0, count)
            _DRAWING["old"] = count
            more = measure(dataset, count, count + max(CLIPS_A_SHARD, round(count * MORE)))
            _DRAWING["old"] = math.inf
        share = more.cpu_s / found[count].cpu_s
        print(f"          new footage costs {share:.1%} of the whole search")
        if share > AIM_SHARE and count >= 500_000:
            over.append(f"new footage at {count:,}")
        if more.right < more.copies:
            over.append(f"copies at {count:,}")
    small, large = sizes[0], sizes[-1]
    search.candidates.__defaults__ = (1 << 30,)
    with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder:
        exact = measure(Dataset.create(f"{folder}/ds"), 0, small)
    is_same = exact.groups == found[small].groups
    print(f"groups of {small:,} clips equal those of a search without a cap: {is_same}")
    if small < large:
        growth = math.log(found[large].cpu_s / found[small].cpu_s) / math.log(large / small)
        print(f"growth of CPU time: {growth:.2f}")
    scale = max(large / 1e6, 0.25)
    over += [name for name, aim in AIMS.items() if getattr(found[large], name) > aim * scale]
    print(f"over the aim for {large:,}: {', '.join(over) or 'nothing'}")
    return int(given.asserts and (bool(over) or not is_same))


if __name__ == "__main__":
    sys.exit(main())
