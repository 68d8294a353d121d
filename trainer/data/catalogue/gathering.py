"""What a view offers a training run, gathered from the manifest into columns (trainer/data/columns.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.cli import say
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.tables import scans
from manifests.views import View
from trainer.config import FitConfig
from trainer.data.catalogue.balance import balance
from trainer.data.catalogue.held_out import draws_of, duplicates, held_out, sources_of
from trainer.data.columns import CHUNK, NUMBERS, Arrays, Lists, Names, ids_of, narrow, places

MEMBER_FIELDS = ("tar", "field", "offset", "size_bytes", "crc32")
_SAME = ("num_channels", "factor_t", "factor_px")
_SUFFIX = ".safetensors"


def gathered(
    dataset: Dataset, views: Sequence[View], config: FitConfig, kept_aside: Collection[str]
) -> tuple[Arrays, dict[str, Any]]:
    """Columns of all clips that some view shows, sorted by id, and what else is to be told of them.

    Args:
        kept_aside: sources that a run has held out; none: they are drawn.

    Raises:
        UsageError: a view has no clip with a latent and a text, or the latents were made by several VAEs.
    """
    fields = ["clip_id", *NUMBERS, *_SAME, "slab_crc32"]
    rows = scans.table(dataset, "latents", views[0].column("latent"), fields)
    ids = ids_of(rows["clip_id"])
    order = np.argsort(ids)
    ids = ids[order]
    latents, latent_of = members_of(dataset, views[0], "latent", ids)
    found, usable, told = list[tuple[Arrays, dict[str, Any]]](), list[np.ndarray](), list[dict]()
    widths: set[int] = set()
    for number, view in enumerate(views):
        members, member_of = members_of(dataset, view, "text", ids)
        kept = ids_of(view.clips(dataset, ["clip_id"])["clip_id"])
        at, is_known = places(ids, kept)
        own = np.zeros(len(ids), dtype=bool)
        own[at[is_known]] = True
        own &= (latents["tar"] >= 0) & (members["tar"] >= 0)
        if not len(kept):
            raise UsageError(
                f"{dataset.address}: view {list(config.mix)[number] if config.mix else 'default'}",
                f"keeps no clip (where {view.where!r})",
                "Change what it keeps, or leave it out of --mix.",
            )
        if not own.any():
            raise UsageError(
                dataset.address,
                f"view {list(config.mix)[number] if config.mix else 'default'} keeps {len(kept)} clips, "
                f"{np.count_nonzero(latents['tar'] >= 0)} have latents, "
                f"{np.count_nonzero(members['tar'] >= 0)} have text; none has all",
                "Run `rushes ingest` to the end; what failed is told by `rushes ls DATASET failures`.",
            )
        usable.append(own)
        found.append((members, member_of))
    is_used = np.logical_or.reduce(usable)
    ids, order = ids[is_used], order[is_used]
    arrays: Arrays = {"ids": ids} | {f"latent.{name}": value[is_used] for name, value in latents.items()}
    rows = rows.take(pa.array(order))
    arrays |= _numbers(rows)
    for number, (view, (members, member_of)) in enumerate(zip(views, found, strict=True)):
        arrays |= {f"text{number}.{name}": value[is_used] for name, value in members.items()}
        captions, kinds = _captions(dataset, view, ids, widths)
        arrays |= {f"text{number}.captions.{name}": value for name, value in captions.items()}
        told.append({"members": member_of, "kinds": kinds})
    if len(widths) > 1:
        raise UsageError(
            dataset.address,
            f"the views that are mixed have texts of widths {sorted(widths)}",
            "Mix views of one text encoder.",
        )
    of_views = [np.flatnonzero(own[is_used]) for own in usable]
    samples, digest = _samples(dataset, views, of_views, arrays, config, kept_aside)
    arrays = {name: narrow(value) for name, value in arrays.items()}
    return arrays | samples, {
        **_one_vae(dataset, rows),
        "latents": latent_of,
        "views": told,
        "text_width": widths.pop(),
        "digest": digest,
    }


def members_of(dataset: Dataset, view: View, name: str, ids: np.ndarray) -> tuple[Arrays, dict[str, Any]]:
    """Where the tensors of each clip lie in a column's tars: `MEMBER_FIELDS` by clip, -1 for no tar.

    Args:
        ids: of the clips, sorted.

    Returns:
        And the paths of the tars, and the fields of members.
    """
    records = scans.table(dataset, "shards", view.column(name), ["tar", "members"])
    kinds = (np.int32, np.int16, np.int64, np.int64, np.int64)
    arrays = {field: np.zeros(len(ids), dtype=kind) for field, kind in zip(MEMBER_FIELDS, kinds, strict=True)}
    arrays["tar"][:] = -1
    tars, fields = list[str](), list[str]()
    for batch in records.to_batches(max_chunksize=1024):  # shards
        list_of, first = batch["members"], len(tars)
        tars += [dataset.path(*tar.split("/")) if tar else "" for tar in batch["tar"].to_pylist()]
        values = list_of.flatten()
        number = pc.list_parent_indices(list_of).to_numpy() + first
        names, sizes = values.field("name"), (values.field(field) for field in MEMBER_FIELDS[2:])
        is_tensor = pc.ends_with(names, _SUFFIX).to_numpy(zero_copy_only=False)
        halves = pc.split_pattern(pc.filter(names, is_tensor), ".", max_splits=1)
        at, is_known = places(ids, ids_of(pa.chunked_array([pc.list_element(halves, 0)])))
        coded = pc.dictionary_encode(pc.list_element(halves, 1))
        fields += [field for field in coded.dictionary.to_pylist() if field not in fields]
        numbered = np.array([fields.index(field) for field in coded.dictionary.to_pylist()], dtype=np.int16)
        at = at[is_known]
        arrays["tar"][at] = number[is_tensor][is_known]
        if len(at):
            arrays["field"][at] = numbered[coded.indices.to_numpy()][is_known]
        for field, own in zip(MEMBER_FIELDS[2:], sizes, strict=True):
            arrays[field][at] = own.to_numpy()[is_tensor][is_known]
    return arrays, {"tars": tars, "fields": fields}


def _numbers(rows: pa.Table) -> Arrays:
    """Columns of `NUMBERS`, and the checksums of slabs."""
    found = {name: pc.fill_null(rows[name], -1).to_numpy().astype(kind) for name, kind in NUMBERS.items()}
    crc32 = rows["slab_crc32"].combine_chunks()
    counts = pc.fill_null(pc.list_value_length(crc32), 0).to_numpy()
    found["slabs.offsets"] = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    found["slabs.values"] = crc32.flatten().to_numpy(zero_copy_only=False).astype(np.uint32)
    return found


def _captions(
    dataset: Dataset, view: View, ids: np.ndarray, widths: set[int]
) -> tuple[Arrays, list[tuple[str, str]]]:
    """The captions of each clip in stored order, and what (kind, source) their numbers stand for."""
    fields = ["clip_id", "caption_id", "kind", "source", "width"]
    table = scans.table(dataset, "text", view.column("text"), fields)
    widths |= set(pc.unique(table["width"]).to_pylist())
    at, is_known = places(ids, ids_of(table["clip_id"]))
    kinds, sources = (
        pc.dictionary_encode(pc.fill_null(table[name].combine_chunks(), "")) for name in ("kind", "source")
    )
    both = kinds.indices.to_numpy().astype(np.int64) * len(sources.dictionary) + sources.indices.to_numpy()
    known, numbers = np.unique(both, return_inverse=True)
    names = [
        (kinds.dictionary[int(one) // len(sources.dictionary)].as_py(), sources.dictionary[rest].as_py())
        for one, rest in zip(known, (int(one) % len(sources.dictionary) for one in known), strict=True)
    ]
    at = at[is_known]
    own = Lists.of(at, len(ids), ids_of(table["caption_id"])[is_known])
    kind = Lists.of(at, len(ids), numbers[is_known].astype(np.uint16))
    return {"offsets": own.offsets, "ids": own.values, "kinds": kind.values}, names


def _samples(
    dataset: Dataset,
    views: Sequence[View],
    usable: list[np.ndarray],
    arrays: Arrays,
    config: FitConfig,
    kept_aside: Collection[str],
) -> tuple[Arrays, str]:
    """The samples to train on, by their rows, those held out, and the digest of it all.

    Args:
        usable: rows of the clips of each view.
    """
    ids = arrays["ids"]
    weights = [_weights(dataset, view, own, ids, config) for view, own in zip(views, usable, strict=True)]
    shares = list(config.mix.values()) or [1.0]
    digest = _digest(views, usable, ids, weights, shares, bool(config.balance))
    rows = np.concatenate([own[weight > 0] for own, weight in zip(usable, weights, strict=True)])
    weight = np.concatenate([share * own[own > 0] for share, own in zip(shares, weights, strict=True)])
    view = np.concatenate([np.full(np.count_nonzero(own > 0), i) for i, own in enumerate(weights)])
    is_shown = np.zeros(len(ids), dtype=bool)
    is_shown[rows] = True
    every = np.flatnonzero(is_shown)
    is_aside = np.zeros(len(ids), dtype=bool)
    is_aside[every] = _aside(dataset, views[0], ids[every], config, kept_aside)
    aside = rows[(view == 0) & is_aside[rows]]
    if not len(aside):
        one = ids[rows[0]].decode()
        say(
            f"held out: {config.held_out:g} of the sources rounds to none, so one clip ({one}) is held out; "
            "its source is also trained on"
        )
        aside = rows[:1]
        is_aside[aside] = True
    keep = ~is_aside[rows]
    if not keep.any() and len(every) > 1:
        raise UsageError(
            "--held-out", f"{config.held_out:g} leaves none of {len(rows)} clips to train on", "Lower it."
        )
    if not keep.any():
        keep[:] = True  # a dataset of one clip is for trying things out
    rows, weight, view = rows[keep], weight[keep], view[keep]
    sizes = ("shard", "latent_t", "latent_h", "latent_w")
    samples = {name: arrays[name][rows].astype(np.int32) for name in sizes}  # wide enough to reckon with
    samples |= {
        "rows": rows.astype(np.int32),
        "fps": np.where(samples["latent_t"] > 1, arrays["fps"][rows], 0.0),
    }
    if view.any():
        samples["view"] = view.astype(np.int16)
    if (weight != 1).any():
        samples["weight"] = weight
    return {f"samples.{name}": value for name, value in samples.items()} | {"held_out": aside}, digest


def _weights(dataset: Dataset, view: View, own: np.ndarray, ids: np.ndarray, config: FitConfig) -> np.ndarray:
    """How often an epoch shows each clip of a view, before the view's share."""
    if not config.balance:
        return np.ones(len(own))
    names = list(Names(ids, own))
    found = balance(dataset, view, config.balance, names)
    return np.array([found[name] for name in names])


def _aside(
    dataset: Dataset, view: View, ids: np.ndarray, config: FitConfig, kept_aside: Collection[str]
) -> np.ndarray:
    """Which clips are held out: those of noted sources, or those that are drawn."""
    if kept_aside:
        coded = sources_of(ids)
        is_noted = np.array([name in kept_aside for name in coded.dictionary.to_pylist()], dtype=bool)
        found = is_noted[coded.indices.to_numpy()]
        if found.any():
            return found  # type: ignore[no-any-return]
    if config.plan_version == 2:
        return draws_of(Names(ids), len(ids)) < config.held_out
    return held_out(ids, duplicates(dataset, view), config.held_out)


def _digest(
    views: Sequence[View],
    usable: list[np.ndarray],
    ids: np.ndarray,
    weights: list[np.ndarray],
    shares: list[float],
    is_balanced: bool,
) -> str:
    """Names the clips, the views and, where clips are weighed, their weights."""

    def parts() -> Iterator[bytes]:
        for own in usable:
            for begin in range(0, len(own), CHUNK):
                yield b"|".join(ids[own[begin : begin + CHUNK]].tolist())
        yield from (view.digest.encode() for view in views)
        if is_balanced:
            for own, weight, share in zip(usable, weights, shares, strict=True):
                for row, value in zip(own, weight, strict=True):
                    if value > 0:
                        yield bytes(ids[row]) + f" {share * value:.9g}".encode()

    found = hashlib.sha256()
    for number, part in enumerate(parts()):
        found.update(b"|" + part if number else part)
    return found.hexdigest()[:16]


def _one_vae(dataset: Dataset, rows: pa.Table) -> dict[str, Any]:
    """The factors and the channels that all latents share.

    Raises:
        UsageError: they do not.
    """
    distinct = pa.table({name: rows[name] for name in _SAME}).group_by(list(_SAME)).aggregate([]).to_pylist()
    channels = {row["num_channels"] for row in distinct}
    if len(channels) != 1:
        raise UsageError(
            dataset.address,
            f"latents have {sorted(channels, key=str)} channels",
            "A view reads one latent column; make it again.",
        )
    factors = {(row["factor_t"], row["factor_px"], row["factor_px"]) for row in distinct}
    if len(factors) != 1 or None in next(iter(factors)):
        raise UsageError(
            dataset.address,
            f"latents have factors {sorted(map(str, factors))}",
            "They are of several VAEs or of an older version; encode again.",
        )
    return {"same": distinct[0], "channels": channels.pop(), "factors": factors.pop()}
