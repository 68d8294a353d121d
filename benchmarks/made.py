"""A dataset of many clips, made by the project's own planner and writers, with tiny members.

Every clip is a source of its own of eight seconds; about a hundred lie in a shard.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from manifests.layout import Column, Dataset
from manifests.schemas import to_table
from manifests.tables import planned, scans
from manifests.views import View
from manifests.writing.commit import Account, ShardCommit
from manifests.writing.compact import commit_version, record
from pipeline.config import PlanConfig
from pipeline.footage.sources import Found
from pipeline.plan import make_plan

PER_SHARD, CLIP_S = 100, 8.0
COLUMNS = {
    name: Column(name, "bench00000") for name in ("preview", "caption", "text", "latent", "dedup", "map")
}
VIEW = "black_share < 0.9 AND clip_id NOT IN (SELECT clip_id FROM duplicates WHERE NOT is_kept)"
CAMERAS = ("static", "pan_left", "pan_right", "tilt_up", "zoom_in", "handheld", "unknown")
COLOURS = ("red", "blue", "green", "grey", "black", "white", "brown")
WORDS = ("a", "the", "red", "blue", "small", "large", "ball", "star", "box", "moves", "left", "sea")


def probed(files: list[Found]) -> list[dict]:
    """What probing would say of the files."""
    return [
        {
            "source_id": hashlib.sha256(found.uri.encode()).hexdigest()[:16],
            "uri": found.uri,
            "status": "kept",
            "size_bytes": 1_000_000,
            "kind": "video",
            "container": "mov,mp4",
            "codec": "h264",
            "pixel_format": "yuv420p",
            "width_px": 1280,
            "height_px": 720,
            "stored_width_px": 1280,
            "stored_height_px": 720,
            "sample_aspect": 1.0,
            "rotation_deg": 0,
            "start_s": 0.0,
            "duration_s": CLIP_S,
            "num_packets": 192,
            "fps": 24.0,
            "decoder": "decord",
            "decoder_reasons": [],
        }
        for found in files
    ]


def plan(dataset: Dataset, clips: int) -> None:
    """Plan as many sources of one clip each."""
    files = [Found(f"s3://footage/{number // 10_000:05d}/{number:08x}.mp4") for number in range(clips)]
    make_plan(dataset, files, PlanConfig(shard_s=PER_SHARD * CLIP_S), probed)


def clip_rows(shard: int, segments: list[dict]) -> list[dict]:
    """Clips of a shard, drawn from its number, one of each segment."""
    chance = random.Random(shard)
    return [
        {
            "clip_id": f"{segment['source_id']}-00000000",
            "shard": shard,
            **{key: segment[key] for key in ("segment_id", "source_id", "uri", "start_s")},
            "end_s": round(chance.uniform(1, CLIP_S), 3),
            "kind": "image" if chance.random() < 0.1 else "video",
            "width_px": chance.choice((640, 1280, 1080, 720)),
            "height_px": chance.choice((360, 720, 1920, 1280)),
            "num_frames": chance.randrange(24, 400),
            "fps": chance.choice((24.0, 25.0, 29.97, 30.0)),
            "is_vfr": chance.random() < 0.1,
            "decoder": chance.choice(("decord", "pyav")),
            "starts_with": chance.choice(("cut", "source_start", "gap")),
            "has_audio": chance.random() < 0.6,
            "camera": chance.choice(CAMERAS),
            "palette": chance.sample(COLOURS, 2),
            **{
                name: round(chance.random() ** 2, 4)
                for name in ("motion", "sharpness", "luma_mean", "saturation", "noise")
            },
            "black_share": 0.0,
            "proxy_fps": 8.0,
            "preview_times_s": [0.0],
        }
        for segment in segments
    ]


def make_shard(dataset: Dataset, shard: int) -> None:
    """All columns of one shard, through the writers."""
    segments, _ = planned.rows_of_shard(dataset, shard, 0)
    rows, chance = clip_rows(shard, segments), random.Random(-shard)
    account = Account(len(rows), len(rows), 0, 0)
    nothing: dict[str, list[dict]] = {"drops": [], "failures": []}
    with ShardCommit(dataset, COLUMNS["preview"], shard, 0) as commit:
        for row in rows:
            commit.add(f"{row['clip_id']}.poster.jpg", b"\xff\xd8" + row["clip_id"].encode() * 8)
        commit.commit({"clips": rows, **nothing}, account)
    lengths = {"short": (6, 12), "dense": (16, 40)}
    captions = [
        {
            "caption_id": f"{row['source_id']}{kind[0]}",
            "clip_id": row["clip_id"],
            "shard": shard,
            "kind": kind,
            "source": "bench",
            "text": " ".join(chance.choices(WORDS, k=length)),
            "status": "accepted" if chance.random() < 0.95 else "rejected",
            "reasons": [] if chance.random() < 0.95 else ["logprob"],
            "num_words": length,
        }
        for row in rows
        for kind, limits in lengths.items()
        for length in [chance.randint(*limits)]
    ]
    with ShardCommit(dataset, COLUMNS["caption"], shard, 0) as commit:
        commit.commit({"captions": captions, **nothing}, account)
    with ShardCommit(dataset, COLUMNS["text"], shard, 0) as commit:
        for row in rows:
            commit.add(f"{row['clip_id']}.text.safetensors", row["clip_id"].encode() * 4)
        texts = [
            {key: row[key] for key in ("clip_id", "shard", "caption_id", "kind", "source")}
            | {"num_tokens": row["num_words"], "width": 64}
            for row in captions
        ]
        commit.commit({"text": texts, **nothing}, account)
    with ShardCommit(dataset, COLUMNS["latent"], shard, 0) as commit:
        for row in rows:
            commit.add(f"{row['clip_id']}.latent.safetensors", row["clip_id"].encode() * 8)
        latents = [
            {"clip_id": row["clip_id"], "shard": shard, "latent_t": 5, "latent_h": 32, "latent_w": 32}
            | {
                "audit_psnr_db": round(chance.gauss(30, 2), 2) if chance.random() < 0.04 else None,
                "audit_flag": "",
            }
            for row in rows
        ]
        commit.commit({"latents": latents, **nothing}, account)


def _make_some(uri: str, shards: list[int]) -> None:
    dataset = Dataset(uri)
    for shard in shards:
        make_shard(dataset, shard)


def fill(dataset: Dataset) -> None:
    """Commit what is missing of every column of every shard."""
    shards = planned.shards(dataset)
    if not dataset.committed_shards(COLUMNS["dedup"]):
        _fill(dataset, shards)
    if not dataset.committed_shards(COLUMNS["map"]):
        _lay_out(dataset, shards)


def _lay_out(dataset: Dataset, shards: list[int]) -> None:
    """A place for each clip, in clouds."""
    chance, rows = np.random.default_rng(1), scans.table(dataset, "clips", None, ["clip_id", "shard"])
    clouds = chance.random((40, 2))[chance.integers(0, 40, rows.num_rows)]
    places = np.clip(clouds + chance.normal(0, 0.03, clouds.shape), 0, 1)
    table = rows.append_column("x", pa.array(places[:, 0])).append_column("y", pa.array(places[:, 1]))
    counts = Counter(rows["shard"].to_pylist())
    records = [
        record(COLUMNS["map"], shard, 0, (counts[shard], counts[shard], 0, 0), {"map": counts[shard]})
        for shard in shards
    ]
    made = {"shards": to_table("shards", records), "map": table.cast(to_table("map", []).schema)}
    commit_version(dataset, COLUMNS["map"], made)


def _fill(dataset: Dataset, shards: list[int]) -> None:
    have = set(dataset.committed_shards(COLUMNS["latent"]))
    left = [shard for shard in shards if shard not in have]
    pieces = [left[begin : begin + 50] for begin in range(0, len(left), 50)]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_make_some, [dataset.uri] * len(pieces), pieces))
    copies, records = [], []
    for shard in shards:
        segments, _ = planned.rows_of_shard(dataset, shard, 0)
        first, second = (f"{segment['source_id']}-00000000" for segment in segments[:2])
        copies.append({"clip_id": second, "shard": shard, "group_id": first, "is_kept": False})
        account = {"num_in": len(segments), "num_kept": len(segments), "num_dropped": 0, "num_failed": 0}
        named = {"column": "dedup", "fingerprint": COLUMNS["dedup"].fingerprint, "shard": shard}
        records.append(named | account | {"generation": 0, "members": [], "parts": []})
    tables = {"shards": to_table("shards", records), "duplicates": to_table("duplicates", copies)}
    commit_version(dataset, COLUMNS["dedup"], tables)


def make(folder: Path, clips: int) -> Dataset:
    """The dataset, or what is there of it completed."""
    dataset = Dataset.create(str(folder))
    if not dataset.generations():
        plan(dataset, clips)
        View(columns=COLUMNS, where=VIEW).save(dataset)
    fill(dataset)
    return dataset
