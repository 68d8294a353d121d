"""The tools that `peers.py` compares: what each needs, the program that drives it, how its folder is read.

A program runs in the tool's own Python with the footage and the output folder as arguments, twice where the
first run was killed, and uses the tool as its documentation does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import av
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]

OPEN_SORA = """
import csv, subprocess, sys
from multiprocessing import Pool
from pathlib import Path
from imageio_ffmpeg import get_ffmpeg_exe
from scenedetect import AdaptiveDetector, detect

out = Path(sys.argv[2])

def scenes(path):
    try:
        found = detect(str(path), AdaptiveDetector(adaptive_threshold=3.0), start_in_scene=True)
        return path, [(start.seconds, end.seconds) for start, end in found]
    except Exception as error:
        print(f"Video '{path}' with error {error}", flush=True)
        return path, None

def cut(job):
    path, spans = job
    for number, (start, end) in enumerate(spans):
        clip = out / "clips" / f"{path.stem}_scene-{number}.mp4"
        if not clip.exists():
            words = [get_ffmpeg_exe(), "-nostdin", "-y", "-ss", str(start), "-i", str(path)]
            words += ["-t", str(end - start), "-map", "0:v", str(clip)]
            subprocess.run(words, capture_output=True)

if __name__ == "__main__":
    (out / "clips").mkdir(parents=True, exist_ok=True)
    with Pool(2) as pool:
        rows = [row for row in pool.map(scenes, sorted(Path(sys.argv[1]).iterdir())) if row[1] is not None]
        with open(out / "timestamp.csv", "w") as file:
            csv.writer(file).writerows(rows)
        pool.map(cut, rows, chunksize=1)
"""

VIDEO2DATASET = """
import csv, sys
from pathlib import Path
from video2dataset import video2dataset

if __name__ == "__main__":
    footage, out, precision = sorted(Path(sys.argv[1]).iterdir()), Path(sys.argv[2]), sys.argv[3]
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "list.csv", "w") as file:
        csv.writer(file).writerows([["url"], *[[str(path)] for path in footage]])
    video2dataset(str(out / "list.csv"), str(out / "shards"), "webdataset", config={
        "subsampling": {
            "FFProbeSubsampler": {"args": {"extract_keyframes": False}},
            "CutDetectionSubsampler": {"cuts_are_clips": True, "args": {"cut_detection_mode": "all"}},
            "ClippingSubsampler": {"args": {"min_length": 0.25, "precision": precision}},
        },
        "reading": {"yt_args": {"download_size": 360, "download_audio_rate": 44100, "yt_metadata_args": None},
                    "timeout": 60, "sampler": None},
        "storage": {"number_sample_per_shard": max(2, len(footage) // 8), "oom_shard_count": 5,
                    "captions_are_subtitles": False},
        "distribution": {"processes_count": 2, "thread_count": 2, "subjob_size": 1000,
                         "distributor": "multiprocessing"},
    })
"""

DATA_JUICER = """
import json, subprocess, sys
from pathlib import Path

out = Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
with open(out / "list.jsonl", "w") as file:
    for path in sorted(Path(sys.argv[1]).iterdir()):
        file.write(json.dumps({"videos": [str(path)], "text": "<__dj__video> <|__dj__eoc|>"}) + "\\n")
scenes = {"detector": "AdaptiveDetector", "threshold": 3.0, "save_dir": str(out / "clips")}
scenes["ffmpeg_extra_args"] = "-c:v libx264 -preset veryfast -crf 22"
config = {"project_name": "peers", "job_id": "peers", "dataset_path": str(out / "list.jsonl"), "np": 2,
          "export_path": str(out / "result.jsonl"), "work_dir": str(out / "work"), "open_tracer": True,
          "use_checkpoint": True, "process": [
              {"video_deduplicator": {}}, {"video_duration_filter": {"min_duration": 0.25}},
              {"video_split_by_scene_mapper": scenes}]}
(out / "config.yaml").write_text(json.dumps(config))
words = [str(Path(sys.executable).parent / "dj-process"), "--config", str(out / "config.yaml")]
sys.exit(subprocess.run(words).returncode)
"""

NEMO_CURATOR = """
import sys
from pathlib import Path
from imageio_ffmpeg import get_ffmpeg_exe
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.core.client import RayClient
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.video.clipping.clip_extraction_stages import (
    ClipTranscodingStage, FixedStrideExtractorStage)
from nemo_curator.stages.video.io.clip_writer import ClipWriterStage
from nemo_curator.stages.video.io.video_reader import VideoReader

footage, out = sys.argv[1], sys.argv[2]
link = Path(sys.executable).parent / "ffmpeg"
if not link.exists():
    link.symlink_to(get_ffmpeg_exe())
client = RayClient(num_cpus=4, num_gpus=0, include_dashboard=False, ray_temp_dir=sys.argv[3])
client.start()
pipeline = Pipeline(name="peers")
pipeline.add_stage(VideoReader(input_video_path=footage, verbose=True))
pipeline.add_stage(FixedStrideExtractorStage(
    clip_len_s=10, clip_stride_s=10, min_clip_length_s=0.25, limit_clips=0))
pipeline.add_stage(ClipTranscodingStage(encoder="libopenh264", num_cpus_per_worker=1))
pipeline.add_stage(ClipWriterStage(
    output_path=out, input_path=footage, upload_clips=True, dry_run=False, generate_embeddings=False,
    generate_previews=False, generate_captions=False))
pipeline.run(RayDataExecutor(), checkpoint_path=out + "/checkpoint")
client.stop()
"""


class Clip(NamedTuple):
    """One clip that a tool made: of which file, how many frames it gives, a digest of its bytes."""

    source: str
    num_frames: int
    digest: str


@dataclass
class Outcome:
    """What a tool left in its folder."""

    clips: dict[str, Clip] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    """Names of files of which its own records (not its log) say that they failed or were left out."""


def num_frames(path: Path | str) -> int:
    """Frames that decode, up to the first error."""
    count = 0
    with contextlib.suppress(av.FFmpegError, IndexError, ValueError), av.open(str(path)) as container:
        for _ in container.decode(video=0):
            count += 1
    return count


def clip_of(path: Path, source: str) -> Clip:
    return Clip(source, num_frames(path), hashlib.sha256(path.read_bytes()).hexdigest()[:16])


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of JSON, without what a killed run left unfinished."""
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def asked(dataset: Path, sql: str) -> list[dict[str, Any]]:
    """What rushes answers to a query."""
    words = [sys.executable, "-m", "rushes", "query", str(dataset), sql, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    streams: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    found = subprocess.run(words, env=environment, check=False, **streams)
    return json.loads(found.stdout) if found.returncode == 0 else []


def rushes_outcome(out: Path, footage: Path) -> Outcome:
    outcome = Outcome()
    members: dict[str, bytes] = {}
    for tar_path in out.glob("columns/preview@*/*.tar"):
        with tarfile.open(tar_path) as tar:
            for member in tar:
                clip = member.name.partition(".")[0]
                file = tar.extractfile(member)
                members[clip] = members.get(clip, b"") + (file.read() if file else b"")
    for row in asked(out, "select * from clips"):
        data = json.dumps(row, sort_keys=True).encode() + members.get(row["clip_id"], b"")
        digest = hashlib.sha256(data).hexdigest()[:16]
        outcome.clips[row["clip_id"]] = Clip(Path(row["uri"]).name, row["num_frames"], digest)
    for table in ("failures", "drops"):
        outcome.told |= {Path(row["uri"]).name for row in asked(out, f"select uri from {table}")}
    return outcome


def open_sora_outcome(out: Path, footage: Path) -> Outcome:
    """The tools name a clip by the stem alone: of files with one stem the first counts as its source."""
    names = {path.stem: path.name for path in sorted(footage.iterdir(), reverse=True)}
    found = sorted((out / "clips").glob("*.mp4"))
    return Outcome({path.name: clip_of(path, names[path.name.rpartition("_scene-")[0]]) for path in found})


def video2dataset_outcome(out: Path, footage: Path) -> Outcome:
    outcome = Outcome()
    for tar_path in sorted((out / "shards").glob("*.tar")):
        with tempfile.TemporaryDirectory() as name, contextlib.suppress(tarfile.ReadError):
            with tarfile.open(tar_path) as tar:
                tar.extractall(name, filter="data")
            for path in Path(name).glob("*.mp4"):
                source = json.loads(path.with_suffix(".json").read_text())["url"]
                outcome.clips[path.name] = clip_of(path, Path(source).name)
    for path in (out / "shards").glob("*.parquet"):
        with contextlib.suppress(pa.ArrowInvalid):
            rows = pq.read_table(path, columns=["url", "status"]).to_pylist()
            outcome.told |= {Path(row["url"]).name for row in rows if row["status"] != "success"}
    return outcome


def data_juicer_outcome(out: Path, footage: Path) -> Outcome:
    outcome = Outcome()
    for row in rows_of(out / "result.jsonl"):
        for path, source in zip(row["videos"], row["__dj__source_file__"], strict=True):
            if Path(path).exists():
                outcome.clips[Path(path).name] = clip_of(Path(path), Path(source).name)
    for row in (row for path in out.glob("work/*/trace/duplicate-*.jsonl") for row in rows_of(path)):
        outcome.told |= {Path(row["dup2"]["videos"][0]).name}
    for row in (row for path in out.glob("work/*/trace/filter-*.jsonl") for row in rows_of(path)):
        outcome.told |= {Path(path).name for path in row.get("videos", [])}
    return outcome


def nemo_curator_outcome(out: Path, footage: Path) -> Outcome:
    outcome = Outcome()
    for path in sorted((out / "clips").rglob("*.mp4")):
        meta = next(iter((out / "metas").rglob(path.stem + ".json")), None)
        source = "?"
        with contextlib.suppress(json.JSONDecodeError):
            source = json.loads(meta.read_text())["source_video"] if meta else "?"
        outcome.clips[path.name] = clip_of(path, Path(source).name)
    for path in (out / "processed_videos").rglob("*.json"):
        if "error" in path.read_text():
            outcome.told.add(path.stem)
    return outcome


class Peer(NamedTuple):
    """A tool: what is installed, the package that gives its version, a program for its own Python with its
    last arguments, and how its folder is read."""

    needs: tuple[str, ...]
    package: str
    program: str
    outcome: Callable[[Path, Path], Outcome]
    words: tuple[str, ...] = ()


_V2D = ("video2dataset==1.3.0", "pyarrow<21")
PEERS = {
    "rushes": Peer((), "rushes", "", rushes_outcome),
    "open-sora": Peer(
        ("scenedetect-headless==0.7.2", "imageio-ffmpeg"),
        "scenedetect-headless",
        OPEN_SORA,
        open_sora_outcome,
    ),
    "video2dataset": Peer(_V2D, "video2dataset", VIDEO2DATASET, video2dataset_outcome, ("exact",)),
    "video2dataset-copy": Peer(
        _V2D, "video2dataset", VIDEO2DATASET, video2dataset_outcome, ("keyframe_adjusted",)
    ),
    "data-juicer": Peer(
        ("py-data-juicer==1.6.1", "aiohttp", "ray[default]", "torch", "av==13.1.0", "scenedetect-headless"),
        "py-data-juicer",
        DATA_JUICER,
        data_juicer_outcome,
    ),
    "nemo-curator": Peer(
        ("nemo-curator[video_cpu]==1.4.0", "imageio-ffmpeg"),
        "nemo-curator",
        NEMO_CURATOR,
        nemo_curator_outcome,
        ("RAY",),
    ),
}
