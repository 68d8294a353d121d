"""The catalogue: what a view offers a training run, from the manifest alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learning.sharing import shared
from manifests.errors import IntegrityError, UsageError
from manifests.layout import Dataset
from manifests.store.shards import Member
from manifests.views import View
from trainer.config import FitConfig
from trainer.data.catalogue.gathering import MEMBER_FIELDS, gathered
from trainer.data.columns import NUMBERS, Arrays, CaptionRows, ClipRows, Lists, MemberRows, Names
from trainer.data.samples import Sample, SampleTable
from vae.measuring.stats import corpus_stats


@dataclass(frozen=True)
class ViewTexts:
    """The text of one view: (tar path, member) and (caption id, kind, source) of captions, by clip.

    Captions are in stored order.
    """

    texts: Mapping[str, tuple[str, Member]]
    captions: Mapping[str, list[tuple[str, str, str]]]


@dataclass(frozen=True)
class Catalog:
    """Samples and where their bytes lie.

    table: samples to train on; held_out: those for validation; clips: the latent row of each clip; latents:
    (tar path, member) by clip; views: the texts of each view that is mixed; mean, std: per-channel statistics
    of the latents; digest names it all; vae: digest of the VAE's weights, where the dataset tells it.
    """

    table: SampleTable
    held_out: list[Sample]
    clips: Mapping[str, dict]
    latents: Mapping[str, tuple[str, Member]]
    views: list[ViewTexts]
    mean: list[float]
    std: list[float]
    latent_channels: int
    factors: tuple[int, int, int]
    text_width: int
    digest: str
    vae: str = ""


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
    arrays, told = shared("the catalogue", lambda: gathered(dataset, views, config, kept_aside))
    column = views[0].column("latent")
    stats = corpus_stats(dataset, column)
    if not all(map(math.isfinite, [*stats["mean"], *stats["std"]])):
        raise IntegrityError(
            str(column),
            "has statistics that are not finite: some latents of it are not",
            "Encode it again by another VAE or with --encode.precision fp32.",
        )
    return _catalog(arrays, told, stats)


def _catalog(arrays: Arrays, told: dict[str, Any], stats: dict[str, Any]) -> Catalog:
    """The catalogue over what `gathered` made."""
    names = Names(arrays["ids"])
    crc32 = Lists(arrays["slabs.offsets"], arrays["slabs.values"])
    clips = ClipRows(names, {name: arrays[name] for name in NUMBERS}, crc32, told["same"])
    views = []
    for number, own in enumerate(told["views"]):
        ids, kinds = (
            Lists(arrays[f"text{number}.captions.offsets"], arrays[f"text{number}.captions.{name}"])
            for name in ("ids", "kinds")
        )
        known = [(kind, source) for kind, source in own["kinds"]]
        members = _members(names, arrays, f"text{number}", own["members"])
        views.append(ViewTexts(members, CaptionRows(names, ids, kinds, known)))
    samples = {name.split(".")[1]: value for name, value in arrays.items() if name.startswith("samples.")}
    table = SampleTable(names.take(samples.pop("rows")), **samples)
    aside = [sample_of(clips.at(int(row)), 0) for row in arrays["held_out"]]
    latents = _members(names, arrays, "latent", told["latents"])
    return Catalog(
        table,
        aside,
        clips,
        latents,
        views,
        stats["mean"],
        stats["std"],
        told["channels"],
        (told["factors"][0], told["factors"][1], told["factors"][2]),
        told["text_width"],
        told["digest"],
        stats.get("vae", ""),
    )


def _members(names: Names, arrays: Arrays, name: str, told: dict[str, Any]) -> MemberRows:
    return MemberRows(
        names, told["tars"], told["fields"], {field: arrays[f"{name}.{field}"] for field in MEMBER_FIELDS}
    )


def sample_of(row: dict[str, Any], view: int) -> Sample:
    """The sample that shows a clip whole, given its row of `latents`."""
    return Sample(row["clip_id"], row["shard"], row["latent_t"], row["latent_h"], row["latent_w"], view=view)
