"""How many frames of files damaged on purpose lie in clips, and how many good ones are kept out.

    python benchmarks/damage.py [FILE ...] [--codecs h264 hevc vp9 av1 mpeg2] [--seeds 1 2 3 4] [--side 320]

Each film (of the film world by its seed, and the first 120 frames of each FILE) is written in each codec, a
keyframe a second, and hurt in three ways: bits of three packets flipped, two packets cut to a third, two
left out; each way `--repeat` times. As FFmpeg decodes them by itself a frame is bad where it lies under
30 dB of the same frame of the sound file, good where it does not, and whole where it is equal to it: between
a good frame and a whole one lies damage that is small or far from the middle. Of those in clips the pictures
are looked at that our reader gives. Of the sound files too it is counted what is withheld.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from media.errors import MediaError
from media.threads import ordinary_threads
from pipeline.config import CurateConfig, PlanConfig
from pipeline.curate.cutting import Gap, pieces
from pipeline.footage.sources import Found, source_row
from pipeline.plan import segments_of
from tests.pipeline.curate.damage import CODECS, FPS, NUM_FRAMES, error_of, grey, hurt, is_bad, read
from world.render import render_frame
from world.scene import sample_shot

KINDS = ("flip", "drop", "cut")


def world(seed: int, side_px: int) -> Iterator[np.ndarray]:
    """Frames [h, w, 3] uint8 of a film of five seconds, with camera noise."""
    shot, noise = sample_shot(seed, 16 / 9, NUM_FRAMES / FPS), np.random.default_rng(seed)
    size = side_px, side_px * 9 // 32 * 2
    for index in range(NUM_FRAMES):
        rgb = render_frame(shot, index / FPS, *size).astype(int)
        yield np.clip(rgb + noise.integers(-6, 7, rgb.shape), 0, 255).astype(np.uint8)


def real(path: str, side_px: int) -> Iterator[np.ndarray]:
    """The first frames of a file, the longer side at most so many pixels."""
    with av.open(path) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == NUM_FRAMES:
                return
            factor = min(1.0, side_px / max(frame.width, frame.height))
            width, height = (max(2, int(length * factor) // 2 * 2) for length in (frame.width, frame.height))
            yield frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")


def written(folder: Path, name: str, codec: str, frames: Iterator[np.ndarray]) -> Path:
    encoder, suffix, options = CODECS[codec]
    path, stream = folder / f"{name}-{codec}.{suffix}", None
    with ordinary_threads(), av.open(str(path), "w") as container:
        for index, rgb in enumerate(frames):
            if stream is None:
                stream = container.add_stream(encoder, FPS, options=options)
                (stream.height, stream.width), stream.pix_fmt = rgb.shape[:2], "yuv420p"
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shared_out(path: Path) -> tuple[set[int], set[int]]:
    """Numbers of the frames that lie in clips, and of those that lie in a fade, which is no damage."""
    row, clips, fades = source_row(Found(str(path))), set[int](), set[int]()
    for segment in segments_of(row, PlanConfig().segment_s) if row["status"] == "kept" else ():
        with contextlib.suppress(MediaError):
            for piece in pieces(segment, row, CurateConfig()):
                begin, end = (
                    round((time_s + row["start_s"]) * FPS) for time_s in (piece.start_s, piece.end_s)
                )
                if not isinstance(piece, Gap):
                    clips |= {round((sample.time_s + row["start_s"]) * FPS) for sample in piece.samples}
                elif piece.reason == "transition":
                    fades |= set(range(begin, end))
    return clips, fades


def counted(path: Path, truth: dict[int, np.ndarray], own_truth: dict[int, np.ndarray]) -> Counter[str]:
    (clips, fades), found = shared_out(path), Counter[str]()
    own = read(path)
    found["bad in clips"] = len(clips - own.keys())  # what is not seen here is not taken for good
    for number, picture in own.items():
        found["bad in clips"] += number in clips and is_bad(error_of(number, picture, own_truth))
    for number, picture in grey(path).items():
        error = error_of(number, picture, truth)
        kind = "bad" if is_bad(error) else "good"
        found[kind] += 1
        found["whole"] += error == 0
        found["whole kept out"] += error == 0 and number not in clips | fades
        found["good kept out"] += kind == "good" and number not in clips | fades
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*")
    parser.add_argument("--codecs", nargs="+", default=list(CODECS), choices=list(CODECS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    av.logging.set_level(av.logging.PANIC)
    films = {f"world{seed}": lambda seed=seed: world(seed, options.side) for seed in options.seeds}
    films |= {Path(path).stem: lambda path=path: real(path, options.side) for path in options.files}
    print("| codec | damage | bad | of them in clips | good | of them kept out | whole | of them kept out |")
    print("|---|---|---|---|---|---|---|---|")
    for codec in options.codecs:
        total = {kind: Counter[str]() for kind in (*KINDS, "none")}
        for name, frames in films.items():
            with tempfile.TemporaryDirectory() as folder:
                whole = written(Path(folder), name, codec, frames())
                truth = grey(whole), read(whole)
                total["none"] += counted(whole, *truth)
                for kind in KINDS:
                    for number in range(options.repeat):
                        total[kind] += counted(hurt(whole, kind, number), *truth)
        for kind, found in total.items():
            row = [codec, kind, found["bad"], found["bad in clips"]]
            for group in ("good", "whole"):
                num_out = found[f"{group} kept out"]
                row += [found[group], f"{num_out} ({num_out / max(1, found[group]):.1%})"]
            print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
