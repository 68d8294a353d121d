"""Export a view: its columns joined into one plain WebDataset tar per shard, for other tools.

Each sample has `poster.jpg` and `proxy.webm`, `text.safetensors` and `latent.safetensors` where the view has
those columns, `txt` (the best caption) and `json` (the clip's row, that of its latent, what made it, all
accepted captions, scores, people's verdicts, licence and origin): the same keys in every sample, so that
Hugging Face `datasets` and Megatron Energon open them as they are. A clip that lacks one of them is left out,
and counted. The trainer can stream such tars (`rushes fit --tars`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from manifests.errors import UsageError
from manifests.exporting.card import card, full
from manifests.layout import EXPORT_MARK, Dataset, is_header
from manifests.runs.events import ingest_settings
from manifests.sql.queries import OF_SOURCES
from manifests.store import storage
from manifests.store.shards import Member, TarWriter, read_member
from manifests.tables import records, scans
from manifests.views import View
from manifests.writing.removing import check_none_went, gone

_OWN_NAME = re.compile(r"\d{6,}\.tar|\.\d{6,}\.tar\..*\.tmp")
FIELDS = {
    "preview": ("poster.jpg", "proxy.webm"),
    "text": ("text.safetensors",),
    "latent": ("latent.safetensors",),
}
"""Members of a sample, by the column they are from."""
_LISTS = {"scores": ("score", "scores"), "verdicts": ("verdict", "verdicts")}
"""Lists of a sample's `json`: the column that they are of, and its table."""
CAPTION_ORDER = ("dense", "short", "structured", "alt")


def _said_of_sources(dataset: Dataset) -> dict[str, dict[str, str]]:
    """`OF_SOURCES` of each source: what is said of the one that is kept, else of a copy of the same bytes."""
    rows = scans.newest_sources(dataset, ["source_id", "status", "reason", *OF_SOURCES]).to_pylist()
    same = [row for row in rows if row["status"] == "kept" or row["reason"] == "exact_duplicate"]
    found: dict[str, dict[str, str]] = defaultdict(lambda: dict.fromkeys(OF_SOURCES, ""))
    for row in sorted(same, key=lambda row: row["status"] != "kept"):
        own = found[row["source_id"]]
        own.update({name: own[name] or row[name] or "" for name in OF_SOURCES})
    return found


def _captions(dataset: Dataset, view: View) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = defaultdict(list)
    if "caption" in view.columns:
        for row in scans.table(dataset, "captions", view.columns["caption"]).to_pylist():
            if row["status"] == "accepted" and row["kind"] in CAPTION_ORDER:  # windows tell of a part
                found[row["clip_id"]].append(row)
    return found


def _by_clip(dataset: Dataset, view: View, column: str, table: str) -> dict[str, list[dict]]:
    """Rows of a table of one of the view's columns, by clip."""
    found: dict[str, list[dict]] = defaultdict(list)
    if column in view.columns:
        for row in scans.table(dataset, table, view.columns[column]).to_pylist():
            found[row["clip_id"]].append(row)
    return found


def _best(captions: list[dict]) -> str:
    ranked = sorted(
        captions, key=lambda row: (CAPTION_ORDER.index(row["kind"]), row["source"] != "ground_truth")
    )
    return ranked[0]["text"] if ranked else ""


def check_outside(out: Path) -> None:
    """Refuse a folder in a dataset, whose takedowns would not reach what is exported there.

    Raises:
        UsageError: it is one, or its name leads there.
    """
    place = out.resolve()
    for folder in (place, *place.parents):
        header = folder / "dataset.json"
        if header.is_file() and is_header(header.read_bytes()):
            raise UsageError(str(out), f"lies in the dataset {folder}", "Name a new folder.")


def _check_own(out: Path) -> None:
    """Refuse a folder that is not for an export alone: the next ingest would take its tars for footage.

    Raises:
        UsageError: it holds something else, or lies in a dataset.
    """
    step = "Name a new folder."
    check_outside(out)
    is_new = out.is_dir() and not (out / EXPORT_MARK).exists()
    others = [path.name for path in out.iterdir() if not is_own(path)] if is_new else []
    if others:
        raise UsageError(str(out), f"holds other things ({', '.join(sorted(others)[:3])})", step)


def is_own(path: Path) -> bool:
    """Whether a file of an export's folder has a name that exports give."""
    return path.name in {"README.md", EXPORT_MARK} or bool(_OWN_NAME.fullmatch(path.name))


def is_unfinished(out: Path, dataset: Dataset, view: View) -> bool:
    """Whether an export of this view into a folder was begun and has not ended."""
    mark = out / EXPORT_MARK
    return mark.is_file() and mark.read_text(errors="replace") == _begun(dataset, view)


def _begun(dataset: Dataset, view: View) -> str:
    """What the mark says of an export that has not ended."""
    whole = f"{dataset.address}\n{view.to_json()}"
    return f"unfinished: give the same command again\n{hashlib.sha256(whole.encode()).hexdigest()}\n"


@contextlib.contextmanager
def _marked(out: Path, dataset: Dataset, view: View) -> Iterator[None]:
    """Mark a folder as an export's, from the first tar on: it is no footage. Held by one process at a time.

    Raises:
        UsageError: another one exports to it.
    """
    with open(out / EXPORT_MARK, "a+") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            step = "Wait for it, or name another folder."
            raise UsageError(str(out), "is being exported to by another process", step) from None
        mark.truncate(0)
        mark.write(_begun(dataset, view))
        mark.flush()
        for debris in out.glob(".*.tmp"):
            if is_own(debris):
                debris.unlink(missing_ok=True)
        yield
        mark.truncate(0)


def _vae_digest(dataset: Dataset, view: View) -> dict[str, str]:
    """Digest of the weights that made the latents, where their commits tell it."""
    if (latent := view.columns.get("latent")) is None:
        return {}
    told = set(scans.table(dataset, "shards", latent, ["stats_json"])["stats_json"].to_pylist())
    digests = {json.loads(stats or "{}").get("vae", "") for stats in told}
    return {"vae_digest": digests.pop()} if len(digests) == 1 and "" not in digests else {}


def _places(
    dataset: Dataset, view: View, columns: Mapping[str, tuple[str, ...]], shard: int
) -> dict[str, list[tuple[str, Member]]]:
    """Where the members of each clip of a shard lie: tars with members in them."""
    found: dict[str, list[tuple[str, Member]]] = defaultdict(list)
    for name, fields in columns.items():
        if not dataset.is_committed(view.columns[name], shard):
            continue  # its clips lack it so far
        path, members = records.members_of_shard(dataset, view.columns[name], shard)
        for member in members:
            if member.field in fields:
                found[member.key].append((path, member))
    return found


def export_webdataset(dataset: Dataset, view: View, out: Path) -> tuple[list[Path], int]:
    """Write one tar per shard under `out`. Running it again gives the same bytes, also after it was stopped.

    Returns:
        The tars, and how many clips of the view were left out for want of a member.

    Raises:
        UsageError: the folder holds something else, the view keeps no clip, or sources were taken down
            meanwhile.
    """
    _check_own(out)
    out.mkdir(parents=True, exist_ok=True)
    before = gone(dataset)
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
    more = {name: _by_clip(dataset, view, *place) for name, place in _LISTS.items()}
    sources = _said_of_sources(dataset)
    made_by = ingest_settings(dataset, view.columns.values()) | _vae_digest(dataset, view)
    if not by_shard:
        raise view.empty()
    written, num_lacking = [], 0
    with _marked(out, dataset, view):
        for shard, clips in sorted(by_shard.items()):
            target = out / f"{shard:06d}.tar"
            places = _places(dataset, view, columns, shard)
            whole = [
                clip for clip in clips if len(places[clip["clip_id"]]) == sum(map(len, columns.values()))
            ]
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
                            "source": sources.get(clip["source_id"], dict.fromkeys(OF_SOURCES, "")),
                            "made_by": made_by,
                            **{
                                name: [full(name, row) for row in found[clip["clip_id"]]]
                                for name, found in more.items()
                            },
                        }
                        tar.add(
                            f"{clip['clip_id']}.json",
                            json.dumps(record, sort_keys=True, default=str).encode(),
                        )
                temporary.replace(target)
            written.append(target)
        check_none_went(dataset, before)
        members_of = [field for names in columns.values() for field in names]
        storage.write_local(out / "README.md", card(members_of, list(made_by)).encode())
    return written, num_lacking
