"""How long an encoder waits for frames, by how many sources are decoded ahead of it.

    python benchmarks/decoding_ahead.py FILE ... [--frame-ms 0 1 3] [--decoders 1 2 4]

Each file's first seconds go through what the encode stage reads by (`pipeline/stages/encoding`) at
training size to one that takes so long for each frame, without a processor: as a VAE on a GPU. The ways of
one encoder take turns.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))

from media.apart.reader import probe
from pipeline.stages.encoding.reading_ahead import Job, SourcesAhead

_FILES = 8
"""Of the real ones, where none are given."""


@dataclass
class Options:
    files: Annotated[list[Path], tyro.conf.Positional]
    frame_ms: tuple[float, ...] = (0.0, 1.0, 3.0)
    """What the encoder takes for a frame."""
    decoders: tuple[int, ...] = (1, 2, 4)
    seconds: float = 10.0
    """Of each file, at most."""
    max_pixels: int = 65536
    rounds: int = 3


def once(jobs: list[Job], frame_ms: float, decoders: int, max_pixels: int) -> tuple[float, int, int]:
    """Seconds, frames, and how many sources were decoded at the same time in the end."""
    begin, num_frames = time.perf_counter(), 0
    with SourcesAhead(jobs, max_pixels, decoders) as ahead:
        for job in jobs:
            with ahead.clip(job.clips[0]) as frames:
                for _ in frames:
                    num_frames += 1
                    time.sleep(frame_ms / 1000)
        return time.perf_counter() - begin, num_frames, ahead.width


def main(asked: Options) -> None:
    if not asked.files:
        real = Path(os.environ.get("RUSHES_REAL_VIDEOS", "../shared/videos"))
        asked = replace(asked, files=sorted(real.glob("*.mp4"))[:_FILES])
    if not asked.files:
        print("left out: no files; give some, or set RUSHES_REAL_VIDEOS")
        return
    jobs = []
    for place, path in enumerate(asked.files):
        facts = probe(str(path))
        clip = {"clip_id": str(place), "start_s": 0.0, "end_s": asked.seconds}
        jobs.append(
            Job(
                lambda facts=facts: facts,
                [clip | {"kind": "image" if facts.decoder == "pillow" else "video"}],
            )
        )
    print("ms a frame  decoders  seconds  x one decoder  encoder busy  sources at once")
    for frame_ms in asked.frame_ms:
        taken = {decoders: list[float]() for decoders in asked.decoders}
        widths = dict[int, int]()
        for _ in range(asked.rounds):
            for decoders, found in taken.items():
                seconds, num_frames, widths[decoders] = once(jobs, frame_ms, decoders, asked.max_pixels)
                found.append(seconds)
        first = statistics.median(taken[asked.decoders[0]])
        for decoders, found in taken.items():
            seconds = statistics.median(found)
            busy = num_frames * frame_ms / 1000 / seconds
            width = widths[decoders]
            print(
                f"{frame_ms:10g} {decoders:9} {seconds:8.2f} {first / seconds:14.2f} {busy:13.2f} {width:16}"
            )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
