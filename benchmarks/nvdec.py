"""Decoding by a GPU (`--encode.nvdec`) beside the processor: the same frames, and the time of each.

    python benchmarks/nvdec.py FILE ... [--max-pixels 65536]

Each file's first seconds are read as the encode stage reads them, at training size, by one decoder's process
of each kind in turn. The first turn is the GPU's trial, in which the processor decodes too; it is compared
here once more and not timed.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))

from media.apart import pool
from media.apart.reader import Reader, gpu_trouble, probe
from media.decode.facts import Probe
from media.decode.gpu.nvdec import NAME as NVDEC
from media.decode.gpu.nvdec import is_fit
from media.decode.reader import Frame

_FILES = 12
"""Of the real ones, where none are given."""


@dataclass
class Options:
    files: Annotated[list[Path], tyro.conf.Positional]
    seconds: float = 20.0
    """Of each file, at most."""
    max_pixels: int = 65536
    rounds: int = 3


def frames(facts: Probe, decoder: str, asked: Options) -> Iterator[Frame]:
    return Reader(facts, asked.max_pixels, decoder).frames(0.0, asked.seconds)


def timed(facts: Probe, decoder: str, asked: Options) -> tuple[float, float]:
    """Seconds, and seconds of processors, which the end of the decoder's process tells."""
    pool.end()
    begin_cpu_s, begin_s = _cpu_s(), time.perf_counter()
    for _ in frames(facts, decoder, asked):
        pass
    spent_s = time.perf_counter() - begin_s
    pool.end()
    return spent_s, _cpu_s() - begin_cpu_s


def _cpu_s() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in used)


def main(asked: Options) -> None:
    if trouble := gpu_trouble():
        print(f"left out: no GPU decodes here: {trouble}")
        return
    if not asked.files:
        real = Path(os.environ.get("RUSHES_REAL_VIDEOS", "../shared/videos"))
        known = [probe(str(path)) for path in sorted(real.glob("*.m*"))]
        fit = [facts.path for facts in known if facts.kind == "video" and is_fit(facts)]
        asked = replace(asked, files=[Path(path) for path in fit[:_FILES]])
    print(f"{'file':32} {'kind':20} frames  equal  GPU / processor: wall, CPU")
    for path in asked.files:
        facts = probe(str(path))
        if not is_fit(facts):
            print(f"{path.name[:32]:32} {facts.codec + ' ' + facts.pixel_format:20} none that a GPU decodes")
            continue
        pairs = list(zip_longest(frames(facts, NVDEC, asked), frames(facts, "pyav", asked)))
        equal = sum(one is not None and other is not None and _same(one, other) for one, other in pairs)
        ways = {NVDEC: list[tuple[float, float]](), "pyav": list[tuple[float, float]]()}
        for _ in range(asked.rounds):
            for way, taken in ways.items():
                taken.append(timed(facts, way, asked))
        wall, cpu = (
            statistics.median(one[part] for one in ways[NVDEC])
            / statistics.median(one[part] for one in ways["pyav"])
            for part in (0, 1)
        )
        kind = f"{facts.codec} {facts.pixel_format}"
        print(f"{path.name[:32]:32} {kind:20} {len(pairs):6} {equal:6}  {wall:.2f}, {cpu:.2f}")


def _same(one: Frame, other: Frame) -> bool:
    return one.time_s == other.time_s and bool((one.rgb == other.rgb).all())


if __name__ == "__main__":
    main(tyro.cli(Options))
