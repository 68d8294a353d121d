"""The catalogue: what a view offers a training run, from the manifest alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from manifests import queries
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.shards import Member
from manifests.views import View
from trainer.packs import Sample
from vae.stats import corpus_stats


@dataclass(frozen=True)
class Catalog:
    """Samples and where their bytes lie.

    samples: those to train on; held_out: those for validation; clips: the latent row of each clip; latents, texts: (tar path, member) by
    clip; captions: (caption id, kind, source) of each clip, in stored order; mean, std: per-channel statistics of the latents; digest names it all.
    """

    samples: list[Sample]
    held_out: list[Sample]
    clips: dict[str, dict]
    latents: dict[str, tuple[str, Member]]
    texts: dict[str, tuple[str, Member]]
    captions: dict[str, list[tuple[str, str, str]]]
    mean: list[float]
    std: list[float]
    latent_channels: int
    factors: tuple[int, int, int]
    text_width: int
    digest: str


def _member_index(dataset: Dataset, view: View, name: str) -> dict[str, tuple[str, Member]]:
    found = {}
    for path, members in queries.members(dataset, view.column(name)).values():
        found.update({member.key: (path, member) for member in members if member.name.endswith(".safetensors")})
    return found


def is_held_out(clip_id: str, share: float) -> bool:
    """Whether a clip is for validation: a function of its id alone, the same in every run."""
    return int(hashlib.sha256(clip_id.encode()).hexdigest()[:8], 16) / 16**8 < share


def load_catalog(dataset: Dataset, view: View, held_out: float) -> Catalog:
    """Read the manifest.

    Raises:
        UsageError: the view has no clip with a latent and a text, or its latents were made by several VAEs.
    """
    kept = set(view.clips(dataset)["clip_id"].to_pylist())
    latents, texts = _member_index(dataset, view, "latent"), _member_index(dataset, view, "text")
    rows = {row["clip_id"]: row for row in queries.table(dataset, "latents", view.column("latent")).to_pylist()}
    captions: dict[str, list[tuple[str, str, str]]] = {}
    text_rows = queries.table(dataset, "text", view.column("text")).to_pylist()
    for row in text_rows:
        captions.setdefault(row["clip_id"], []).append((row["caption_id"], row["kind"], row["source"]))
    usable = sorted(kept & set(latents) & set(texts) & set(rows))
    if not usable:
        raise UsageError(
            dataset.uri,
            f"view keeps {len(kept)} clips, {len(latents)} have latents, {len(texts)} have text; none has all",
            "Run `python -m pipeline ingest` to the end.",
        )
    every = [Sample(name, rows[name]["shard"], rows[name]["latent_t"], rows[name]["latent_h"], rows[name]["latent_w"]) for name in usable]
    aside = [sample for sample in every if is_held_out(sample.clip_id, held_out)] or every[:1]
    train = [sample for sample in every if sample not in aside] or every
    stats = corpus_stats(dataset, view.column("latent"))
    mean, std = stats["mean"], stats["std"]
    channels = {row["num_channels"] for row in rows.values()}
    if len(channels) != 1:
        raise UsageError(dataset.uri, f"latents have {sorted(channels)} channels", "A view reads one latent column; make it again.")
    digest = hashlib.sha256(("|".join(usable) + view.digest).encode()).hexdigest()[:16]
    factors = {(row["factor_t"], row["factor_px"], row["factor_px"]) for row in rows.values()}
    if len(factors) != 1 or None in next(iter(factors)):
        raise UsageError(
            dataset.uri, f"latents have factors {sorted(map(str, factors))}", "They are of several VAEs or of an older version; encode again."
        )
    return Catalog(train, aside, rows, latents, texts, captions, mean, std, channels.pop(), factors.pop(), text_rows[0]["width"], digest)
