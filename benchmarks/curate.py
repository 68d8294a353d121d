"""What curating costs beside decoding alone, and beside the usual ways to make clips, on the same files in
one run.

    python benchmarks/curate.py [FOLDER] [--repeat 3] [--json OUT]

Rows, each over the same files, in CPU seconds (children included, start-up of their processes too, as their
users pay it):

* `ffmpeg decode`: `ffmpeg -i FILE -f null -`, the least that reading every frame costs.
* `rushes curate`: shots, transitions, measurements, previews, posters, WebM proxies, damage; in one process
  and its decoder, without Ray.
* `detect-cut-extract`: PySceneDetect's adaptive detector over OpenCV, ffmpeg cuts each scene with x264,
  ffmpeg extracts two 512 px JPEGs a second and a WebM proxy from each clip (Open-Sora's way, with the same
  products).
* `stream copy`: the same scenes cut with `-c copy` (video2dataset's way): cheap, and frames are lost.

Frames kept are counted by decoding what was written. Needs ffmpeg; PySceneDetect is a dependency already.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import cv2

sys.path.insert(0, str(Path(__file__).parent.parent))

from manifests.layout import Dataset
from manifests.writing.withdrawn import Withdrawn
from media.apart.pool import pids
from pipeline.config import CurateConfig
from pipeline.curate.before import Before
from pipeline.curate.cutting import pieces
from pipeline.curate.stage import Book, Curate
from pipeline.footage.sources import Found, source_row

cv2.setNumThreads(1)


class Members:
    """Counts what a shard would hold."""

    def __init__(self) -> None:
        self.num_bytes = 0

    def add(self, name: str, data: bytes) -> None:
        self.num_bytes += len(data)


def cpu_s() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime + sum(map(decoder_s, pids()))


def decoder_s(pid: int) -> float:
    """CPU seconds of a decoder that is at work for this process: it is a child that has not ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ffmpeg(*arguments: object) -> None:
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-nostdin", *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=600,
    )


def num_frames(path: Path) -> int:
    try:
        with av.open(str(path)) as container:
            return sum(1 for _ in container.decode(video=0))
    except (av.FFmpegError, IndexError):
        return 0


def decode_alone(row: dict, folder: Path) -> tuple[int, int]:
    ffmpeg("-i", row["uri"], "-f", "null", "-")
    return row["num_packets"], 0


def curate(row: dict, folder: Path) -> tuple[int, int]:
    members, config = Members(), CurateConfig()
    stage, dataset = Curate(config), Dataset.create(str(folder / "nothing"))
    before = Before(Withdrawn(dataset, stage.column, 0))
    book = Book(members, config, 0, before)  # type: ignore[arg-type]
    segment = {
        "start_s": 0.0,
        "end_s": row["duration_s"],
        "segment_id": "s",
        "source_id": row["source_id"],
        "uri": row["uri"],
    }
    book.open(segment, row)
    for piece in pieces(segment, row, config):
        book.note(piece)
    return sum(clip["num_frames"] for clip in book.clips), members.num_bytes


def scenes_of(path: str) -> list[tuple[float, float]]:
    from scenedetect import AdaptiveDetector, SceneManager, open_video

    video, manager = open_video(path), SceneManager()
    manager.add_detector(AdaptiveDetector())
    manager.detect_scenes(video)
    return [(start.seconds, end.seconds) for start, end in manager.get_scene_list(start_in_scene=True)]


def detect_cut_extract(row: dict, folder: Path) -> tuple[int, int]:
    for number, (start, end) in enumerate(scenes_of(row["uri"])):
        clip = folder / f"{number}.mp4"
        ffmpeg(
            "-ss",
            start,
            "-i",
            row["uri"],
            "-t",
            end - start,
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-crf",
            22,
            "-an",
            clip,
        )
        ffmpeg("-i", clip, "-vf", "fps=2,scale='min(512,iw)':-2", "-q:v", 3, folder / f"{number}-%03d.jpg")
        ffmpeg(
            "-i",
            clip,
            "-vf",
            "fps=8,scale='min(256,iw)':-2",
            "-c:v",
            "libvpx-vp9",
            "-deadline",
            "realtime",
            "-cpu-used",
            8,
            "-an",
            folder / f"{number}.webm",
        )
    return -1, sum(path.stat().st_size for path in folder.iterdir())


def stream_copy(row: dict, folder: Path) -> tuple[int, int]:
    for number, (start, end) in enumerate(scenes_of(row["uri"])):
        ffmpeg(
            "-ss",
            start,
            "-i",
            row["uri"],
            "-t",
            end - start,
            "-c",
            "copy",
            "-an",
            folder / f"{number}{Path(row['uri']).suffix}",
        )
    return -1, sum(path.stat().st_size for path in folder.iterdir())


WAYS = {
    "ffmpeg decode": decode_alone,
    "rushes curate": curate,
    "detect-cut-extract": detect_cut_extract,
    "stream copy": stream_copy,
}


def measured(way: str, row: dict) -> tuple[float, int, int]:
    """CPU seconds, frames kept, bytes written; (nan, 0, 0) where it breaks."""
    with tempfile.TemporaryDirectory() as name:
        folder, begin = Path(name), cpu_s()
        try:
            kept, written = WAYS[way](row, folder)
        except Exception as error:  # noqa: BLE001 - another tool's way to break is a result too
            print(
                f"  {way} breaks on {Path(row['uri']).name}: {type(error).__name__}: {str(error)[:100]}",
                file=sys.stderr,
            )
            return cpu_s() - begin, 0, 0
        cost = cpu_s() - begin
        if kept < 0:
            kept = sum(
                num_frames(path)
                for path in folder.iterdir()
                if path.suffix not in {".jpg", ".webm"} or path.suffix == Path(row["uri"]).suffix
            )
        return cost, kept, written


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(os.environ.get("RUSHES_REAL_VIDEOS", "../shared/videos"))
    )
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--least-s", type=float, default=1.0, help="leave out sources shorter than this")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.folder.is_dir() or not shutil.which("ffmpeg"):
        print(
            f"left out: needs ffmpeg and a folder of videos ({arguments.folder} is none, or set "
            "RUSHES_REAL_VIDEOS)"
        )
        return
    paths = sorted(
        path for path in arguments.folder.rglob("*") if path.is_file() and "corrupt" not in path.parts
    )
    rows = [
        row
        for row in (source_row(Found(str(path))) for path in paths)
        if row["status"] == "kept" and row["kind"] == "video"
    ]
    rows = [row for row in rows if row["duration_s"] >= arguments.least_s]
    minutes = sum(row["duration_s"] for row in rows) / 60
    frames, size = sum(row["num_packets"] for row in rows), sum(row["size_bytes"] for row in rows)
    print(f"{len(rows)} files, {minutes:.1f} minutes, {frames} frames, {size / 2**20:.1f} MiB")
    results: dict[str, dict] = {}
    per_file: dict[str, dict[str, float]] = {}
    ways = arguments.ways.split(",")
    runs: dict[str, list[list[tuple[float, int, int]]]] = {way: [[] for _ in rows] for way in ways}
    for _ in range(arguments.repeat):
        for number, row in enumerate(rows):  # the ways in turns: a machine's speed changes by the minute
            for way in ways:
                runs[way][number].append(measured(way, row))
    for way in ways:
        costs = [statistics.median(run[0] for run in found) for found in runs[way]]
        for row, cost in zip(rows, costs, strict=True):
            per_file.setdefault(row["uri"], {})[way] = cost
        results[way] = {
            "cpu_s": sum(costs),
            "cpu_s_per_minute": sum(costs) / minutes,
            "frames_kept": sum(found[0][1] for found in runs[way]),
            "bytes_written": sum(found[0][2] for found in runs[way]),
        }
    base = results.get("ffmpeg decode", {}).get("cpu_s", float("nan"))
    ours = results.get("rushes curate", {}).get("cpu_s", float("nan"))
    print(
        f"{'way':24}{'CPU s':>9}{'CPU s/min':>11}{'x decode':>10}{'x rushes':>10}"
        f"{'frames':>9}{'share':>8}{'MiB written':>13}{'x source':>10}"
    )
    for way, found in results.items():
        cpu_s, kept, written = found["cpu_s"], found["frames_kept"], found["bytes_written"]
        print(
            f"{way:24}{cpu_s:9.1f}{found['cpu_s_per_minute']:11.2f}{cpu_s / base:10.2f}{cpu_s / ours:10.2f}"
            f"{kept:9d}{kept / frames:8.3f}{written / 2**20:13.1f}{written / size:10.2f}"
        )
    if {"ffmpeg decode", "rushes curate"} <= set(results):
        ratios = sorted(
            (cost["rushes curate"] / cost["ffmpeg decode"], Path(uri).name) for uri, cost in per_file.items()
        )
        print(
            f"rushes over decode, by file: median {statistics.median(ratio for ratio, _ in ratios):.2f}, "
            f"dearest {ratios[-1][0]:.2f} ({ratios[-1][1]})"
        )
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"results": results, "per_file": per_file, "at": time.strftime("%Y-%m-%d")}, indent=1)
        )


if __name__ == "__main__":
    main()
