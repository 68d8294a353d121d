"""Export a view: its columns joined into one plain WebDataset tar per shard, for other tools.

Each sample gets `poster.jpg`, `proxy.webm`, `latent.safetensors`, `text.safetensors` (where the view has
them), `txt` (the best caption) and `json` (the clip's row, that of its latent, what made it, and all accepted
captions). The trainer can stream such tars (`trainer fit --tars`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from manifests import queries
from manifests.layout import Dataset
from manifests.store import storage
from manifests.store.shards import Member, TarWriter, read_member
from manifests.views import View
from manifests.writing.events import ingest_settings

CAPTION_ORDER = ("dense", "short", "structured", "alt")


def _captions(dataset: Dataset, view: View) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = defaultdict(list)
    if "caption" in view.columns:
        for row in queries.table(dataset, "captions", view.columns["caption"]).to_pylist():
            if row["status"] == "accepted":
                found[row["clip_id"]].append(row)
    return found


def _best(captions: list[dict]) -> str:
    ranked = sorted(
        captions, key=lambda row: (CAPTION_ORDER.index(row["kind"]), row["source"] != "ground_truth")
    )
    return ranked[0]["text"] if ranked else ""


def export_webdataset(dataset: Dataset, view: View, out: Path) -> list[Path]:
    """Write one tar per shard under `out` and return their paths. Running it again gives the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    captions = _captions(dataset, view)
    by_shard: dict[int, list[dict]] = defaultdict(list)
    for row in view.clips(dataset).to_pylist():
        by_shard[row["shard"]].append(row)
    indexes: list[dict[int, tuple[str, dict[str, list[Member]]]]] = []
    for name in ("preview", "text", "latent"):
        if name in view.columns:
            shards = {}
            for shard, (path, members) in queries.members(dataset, view.columns[name]).items():
                grouped: dict[str, list[Member]] = defaultdict(list)
                for member in members:
                    grouped[member.key].append(member)
                shards[shard] = (path, grouped)
            indexes.append(shards)
    latents = (
        {row["clip_id"]: row for row in queries.table(dataset, "latents", view.columns["latent"]).to_pylist()}
        if "latent" in view.columns
        else {}
    )
    made_by = ingest_settings(dataset)
    written = []
    for shard, clips in sorted(by_shard.items()):
        target = out / f"{shard:06d}.tar"
        temporary = Path(storage.temporary_name(str(target)))
        with TarWriter(temporary) as tar:
            for clip in clips:
                for index in indexes:
                    path, grouped = index.get(shard, ("", {}))
                    for member in grouped.get(clip["clip_id"], []):
                        tar.add(member.name, read_member(dataset.filesystem, path, member))
                rows = captions[clip["clip_id"]]
                tar.add(f"{clip['clip_id']}.txt", _best(rows).encode())
                record = {
                    "clip": clip,
                    "captions": rows,
                    "latent": latents.get(clip["clip_id"], {}),
                    "made_by": made_by,
                }
                tar.add(f"{clip['clip_id']}.json", json.dumps(record, sort_keys=True, default=str).encode())
        temporary.replace(target)
        written.append(target)
    return written
