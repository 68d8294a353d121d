"""Export a view: its columns joined into one plain WebDataset tar per shard, for other tools.

Each sample has `poster.jpg` and `proxy.webm`, `text.safetensors` and `latent.safetensors` where the view has
those columns, `txt` (the best caption) and `json` (the clip's row, that of its latent, what made it, and all
accepted captions): the same keys in every sample, so that Hugging Face `datasets` and Megatron Energon open
them as they are. A clip that lacks one of them is left out, and counted. The trainer can stream such tars
(`rushes fit --tars`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from manifests.exporting.card import card, full
from manifests.layout import EXPORT_MARK, Dataset
from manifests.store import storage
from manifests.store.shards import Member, TarWriter, read_member
from manifests.tables import records, scans
from manifests.views import View
from manifests.writing.events import ingest_settings

FIELDS = {
    "preview": ("poster.jpg", "proxy.webm"),
    "text": ("text.safetensors",),
    "latent": ("latent.safetensors",),
}
"""Members of a sample, by the column they are from."""
CAPTION_ORDER = ("dense", "short", "structured", "alt")


def _captions(dataset: Dataset, view: View) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = defaultdict(list)
    if "caption" in view.columns:
        for row in scans.table(dataset, "captions", view.columns["caption"]).to_pylist():
            if row["status"] == "accepted" and row["kind"] in CAPTION_ORDER:  # windows tell of a part
                found[row["clip_id"]].append(row)
    return found


def _best(captions: list[dict]) -> str:
    ranked = sorted(
        captions, key=lambda row: (CAPTION_ORDER.index(row["kind"]), row["source"] != "ground_truth")
    )
    return ranked[0]["text"] if ranked else ""


def export_webdataset(dataset: Dataset, view: View, out: Path) -> tuple[list[Path], int]:
    """Write one tar per shard under `out`. Running it again gives the same bytes.

    Returns:
        The tars, and how many clips of the view were left out for want of a member.
    """
    out.mkdir(parents=True, exist_ok=True)
    captions = _captions(dataset, view)
    by_shard: dict[int, list[dict]] = defaultdict(list)
    for row in view.clips(dataset).to_pylist():
        by_shard[row["shard"]].append(row)
    columns = {name: fields for name, fields in FIELDS.items() if name in view.columns}
    latents = (
        {row["clip_id"]: row for row in scans.table(dataset, "latents", view.columns["latent"]).to_pylist()}
        if "latent" in view.columns
        else {}
    )
    made_by = ingest_settings(dataset, view.columns.values())
    written, num_lacking = [], 0
    for shard, clips in sorted(by_shard.items()):
        target = out / f"{shard:06d}.tar"
        places: dict[str, list[tuple[str, Member]]] = defaultdict(list)
        for name, fields in columns.items():
            if not dataset.is_committed(view.columns[name], shard):
                continue  # its clips lack it so far
            path, members = records.members_of_shard(dataset, view.columns[name], shard)
            for member in members:
                if member.field in fields:
                    places[member.key].append((path, member))
        whole = [clip for clip in clips if len(places[clip["clip_id"]]) == sum(map(len, columns.values()))]
        num_lacking += len(clips) - len(whole)
        if not whole:
            continue
        with storage.beside(str(target)) as temporary:
            with TarWriter(temporary) as tar:
                for clip in whole:
                    for path, member in places[clip["clip_id"]]:
                        tar.add(member.name, read_member(dataset.filesystem, path, member))
                    rows = captions[clip["clip_id"]]
                    tar.add(f"{clip['clip_id']}.txt", _best(rows).encode())
                    record = {
                        "clip": full("clips", clip),
                        "captions": [full("captions", row) for row in rows],
                        "latent": full("latents", latents.get(clip["clip_id"], {})),
                        "made_by": made_by,
                    }
                    tar.add(
                        f"{clip['clip_id']}.json", json.dumps(record, sort_keys=True, default=str).encode()
                    )
            temporary.replace(target)
        written.append(target)
    members_of = [field for names in columns.values() for field in names]
    (out / "README.md").write_text(card(members_of, list(made_by)))
    if all(path.suffix == ".tar" or path.name == "README.md" for path in out.iterdir()):
        (out / EXPORT_MARK).touch()  # what else lies there may be footage
    return written, num_lacking
