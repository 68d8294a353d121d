"""The catalogue: what a view offers a training run, from the manifest alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.store.shards import Member
from manifests.tables import scans
from manifests.views import View
from trainer.config import FitConfig
from trainer.data.balance import balance
from trainer.data.held_out import draw_of, duplicates, held_out, source_of
from trainer.data.samples import Sample, SampleTable
from vae.measuring.stats import corpus_stats


@dataclass(frozen=True)
class ViewTexts:
    """The text of one view: (tar path, member) and (caption id, kind, source) of captions, by clip.

    Captions are in stored order.
    """

    texts: dict[str, tuple[str, Member]]
    captions: dict[str, list[tuple[str, str, str]]]


@dataclass(frozen=True)
class Catalog:
    """Samples and where their bytes lie.

    table: samples to train on; held_out: those for validation; clips: the latent row of each clip; latents:
    (tar path, member) by clip; views: the texts of each view that is mixed; mean, std: per-channel statistics
    of the latents; digest names it all.
    """

    table: SampleTable
    held_out: list[Sample]
    clips: dict[str, dict]
    latents: dict[str, tuple[str, Member]]
    views: list[ViewTexts]
    mean: list[float]
    std: list[float]
    latent_channels: int
    factors: tuple[int, int, int]
    text_width: int
    digest: str


def _member_index(dataset: Dataset, view: View, name: str) -> dict[str, tuple[str, Member]]:
    found = {}
    for path, members in scans.members(dataset, view.column(name)).values():
        found.update(
            {member.key: (path, member) for member in members if member.name.endswith(".safetensors")}
        )
    return found


def views_of(dataset: Dataset, name: str, config: FitConfig) -> list[View]:
    """The views that a run reads: those it mixes, or the one named."""
    return [View.load(dataset, own) for own in config.mix or [name]]


def load_catalog(
    dataset: Dataset, views: Sequence[View], config: FitConfig, kept_aside: Collection[str] = ()
) -> Catalog:
    """Read the manifest.

    Args:
        views: as `views_of` gives them; their weights are those of `config.mix`, in order.
        kept_aside: sources that a run has held out; none: they are drawn.

    Raises:
        UsageError: a view has no clip with a latent and a text, or the latents were made by several VAEs.
    """
    if len({str(view.column("latent")) for view in views}) > 1:
        raise UsageError(
            dataset.address,
            "the views that are mixed read several latent columns",
            "Mix views that share one; they may differ in all else.",
        )
    latents = _member_index(dataset, views[0], "latent")
    rows = {
        row["clip_id"]: row for row in scans.table(dataset, "latents", views[0].column("latent")).to_pylist()
    }
    texts, usable = list[ViewTexts](), list[list[str]]()
    widths: set[int] = set()
    for number, view in enumerate(views):
        own = _view_texts(dataset, view, widths)
        kept = view.kept(dataset)
        usable.append(sorted(kept & set(latents) & set(own.texts) & set(rows)))
        if not usable[-1]:
            raise UsageError(
                dataset.address,
                f"view {list(config.mix)[number] if config.mix else ''} keeps {len(kept)} clips, "
                f"{len(latents)} have latents, {len(own.texts)} have text; none has all",
                "Run `rushes ingest` to the end.",
            )
        texts.append(own)
    if len(widths) > 1:
        raise UsageError(
            dataset.address,
            f"the views that are mixed have texts of widths {sorted(widths)}",
            "Mix views of one text encoder.",
        )
    every = _weighed(dataset, views, usable, rows, config)
    every_id = sorted({sample.clip_id for sample, _ in every})
    names = {name for name in every_id if source_of(name) in kept_aside}
    names = names or _held_out(dataset, views[0], every_id, config)
    aside = [sample for sample, _ in every if sample.view == 0 and sample.clip_id in names] or [every[0][0]]
    names |= {sample.clip_id for sample in aside}
    train = [(sample, weight) for sample, weight in every if sample.clip_id not in names]
    if not train and len({sample.clip_id for sample, _ in every}) > 1:
        raise UsageError(
            "--held-out", f"{config.held_out:g} leaves none of {len(every)} clips to train on", "Lower it."
        )
    train = train or every  # a dataset of one clip is for trying things out
    factors, channels = _one_vae(dataset, rows)
    stats = corpus_stats(dataset, views[0].column("latent"))
    digest = hashlib.sha256(
        "|".join(
            [
                *(name for own in usable for name in own),
                *(view.digest for view in views),
                *(f"{sample.clip_id} {weight:.9g}" for sample, weight in every if config.balance),
            ]
        ).encode()
    ).hexdigest()[:16]
    return Catalog(
        _table(train, rows),
        aside,
        rows,
        latents,
        texts,
        stats["mean"],
        stats["std"],
        channels,
        factors,
        widths.pop(),
        digest,
    )


def _weighed(
    dataset: Dataset,
    views: Sequence[View],
    usable: Sequence[list[str]],
    rows: dict[str, dict],
    config: FitConfig,
) -> list[tuple[Sample, float]]:
    """The clips of all views and how often an epoch shows each; those that are never shown are left out."""
    weights = list(config.mix.values()) or [1.0]
    found = []
    for number, (view, own, weight) in enumerate(zip(views, usable, weights, strict=True)):
        shares = balance(dataset, view, config.balance, own) if config.balance else dict.fromkeys(own, 1.0)
        found += [(_sample(rows[name], number), weight * shares[name]) for name in own if shares[name] > 0]
    return found


def _held_out(dataset: Dataset, view: View, clip_ids: list[str], config: FitConfig) -> set[str]:
    if config.plan_version == 2:
        return {name for name in clip_ids if draw_of(name) < config.held_out}
    return held_out(clip_ids, duplicates(dataset, view), config.held_out)


def _sample(row: dict, view: int) -> Sample:
    return Sample(row["clip_id"], row["shard"], row["latent_t"], row["latent_h"], row["latent_w"], view=view)


def _table(train: list[tuple[Sample, float]], rows: dict[str, dict]) -> SampleTable:
    table = SampleTable.of([sample for sample, _ in train])
    weight = np.array([weight for _, weight in train])
    fps = np.array([rows[sample.clip_id]["fps"] if sample.latent_t > 1 else 0.0 for sample, _ in train])
    return replace(table, fps=fps, weight=None if (weight == 1).all() else weight)


def _view_texts(dataset: Dataset, view: View, widths: set[int]) -> ViewTexts:
    captions: dict[str, list[tuple[str, str, str]]] = {}
    fields = ["clip_id", "caption_id", "kind", "source", "width"]
    for row in scans.table(dataset, "text", view.column("text"), fields).to_pylist():
        captions.setdefault(row["clip_id"], []).append((row["caption_id"], row["kind"], row["source"]))
        widths.add(row["width"])
    return ViewTexts(_member_index(dataset, view, "text"), captions)


def _one_vae(dataset: Dataset, rows: dict[str, dict]) -> tuple[tuple[int, int, int], int]:
    """The factors and the channels that all latents share."""
    channels = {row["num_channels"] for row in rows.values()}
    if len(channels) != 1:
        raise UsageError(
            dataset.address,
            f"latents have {sorted(channels)} channels",
            "A view reads one latent column; make it again.",
        )
    factors = {(row["factor_t"], row["factor_px"], row["factor_px"]) for row in rows.values()}
    if len(factors) != 1 or None in next(iter(factors)):
        raise UsageError(
            dataset.address,
            f"latents have factors {sorted(map(str, factors))}",
            "They are of several VAEs or of an older version; encode again.",
        )
    return factors.pop(), channels.pop()
