"""Training from plain WebDataset tars (as `rushes export` writes), streamed without an index.

For data that lies on a disk or a server as tars alone. What an index gives is not there: no plan before the
run, no clip exactly once, no exact resume (a resumed run goes on with tars in a new order). Each process
reads its own share of the tars, again and again, and packs what comes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manifests.cli import say
from manifests.errors import IntegrityError, UsageError
from manifests.text import last_name
from trainer.config import FitConfig
from trainer.data.ahead import Ahead
from trainer.data.catalogue.catalog import Catalog
from trainer.data.catalogue.held_out import is_held_out
from trainer.data.loader import Pack, PackReader
from trainer.data.packs import largest_fit
from trainer.data.samples import Sample, SampleTable
from trainer.data.tars.clip import StreamedClip, text_width
from trainer.data.tars.reading import POOL, stream
from trainer.data.windows import Cutter

SURVEY, HELD_OUT = 256, 32
AHEAD = 4
"""Steps read ahead."""


def kind_of(clip: StreamedClip) -> dict[str, Any]:
    """What all clips of a training have in common: what made their latents and texts, and their sizes."""
    made_by = clip.row.get("made_by", {})
    sizes = {name: clip.row[name] for name in _SIZES[:-1]} | {"text_width": text_width(clip)}
    return {**sizes, **{name: made_by.get(name) or "" for name in ("vae_digest", *_NAMES)}}


def check_kind(clip: StreamedClip, kind: Mapping[str, Any]) -> None:
    """
    Raises:
        UsageError: a clip is of another kind. What does not say what made it is taken for the same.
    """
    own = kind_of(clip)
    others = [name for name in _SIZES if own[name] != kind[name]]
    if own["vae_digest"] and kind["vae_digest"]:
        others += ["vae_digest"] if own["vae_digest"] != kind["vae_digest"] else []
        names = [name for name in _NAMES if name != "vae"]
    else:
        names = list(_NAMES)
    for name in names:
        if own[name] and kind[name] and last_name(own[name]) != last_name(kind[name]):
            others.append(name)
    if others:
        told = "; ".join(f"{name} {own[name]}, not {kind[name]}" for name in others)
        raise UsageError(
            f"--tars {clip.where}",
            f"is not of what made the clips before it ({told})",
            "Give tars of one VAE and one text encoder.",
        )


_SIZES = ("num_channels", "factor_t", "factor_px", "text_width")
_NAMES = ("vae", "text_encoder", "text_model")


class StreamReader(PackReader):
    """Lays clips that are held in memory into packs."""

    def __init__(self, catalog: Catalog, config: FitConfig) -> None:
        super().__init__(None, catalog, config)
        self.held: dict[str, StreamedClip] = {}
        self._kind: dict[str, Any] = {}
        self._uses: Counter[str] = (
            Counter()
        )  # of few clips, the next epoch's showing of one may wait beside this one's

    def hold(self, clip: StreamedClip, epoch: int = 0) -> Sample:
        """Keep a clip until `let_go`.

        Returns it as a sample, cut to a window where it is longer than a pack: another one each epoch.

        Raises:
            UsageError: it is not of the VAE or the text encoder of the clips before it.
        """
        row = clip.row
        self._kind = self._kind or kind_of(clip)
        check_kind(clip, self._kind)
        name = self._name_of(clip)
        self.held[name] = clip
        self._uses[name] += 1
        whole = Sample(name, row["shard"], row["latent_t"], row["latent_h"], row["latent_w"])
        cutter = Cutter(
            SampleTable.of([whole]), self.config.model.patch, self.config.tokens, is_covering=False
        )
        if not cutter.is_over[0]:
            return whole
        own = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        cut = cutter.cut(0, np.random.default_rng([self.config.seed, epoch, own]))
        return replace(
            whole,
            latent_t=cut.length,
            latent_h=cut.height,
            latent_w=cut.width,
            start=cut.start,
            top=cut.top,
            left=cut.left,
        )

    def _name_of(self, clip: StreamedClip) -> str:
        """Its id; where another of the same id is held, as of footage at two sizes, with its place behind."""
        name, size = str(clip.row["clip_id"]), clip.latent[0].shape
        held = self.held.get(name)
        if held is None or (held.where == clip.where and held.latent[0].shape == size):
            return name
        return f"{name}@{clip.where} of {tuple(size)}"  # in tars that were joined the place may be the same

    def let_go(self, samples: list[Sample]) -> None:
        for sample in samples:
            self._uses[sample.clip_id] -= 1
            if not self._uses[sample.clip_id]:
                del self.held[sample.clip_id], self._uses[sample.clip_id]

    def row_of(self, sample: Sample) -> dict[str, Any]:
        return self.held[sample.clip_id].row

    def whole_latent(self, sample: Sample) -> tuple[Tensor, Tensor]:
        return self.held[sample.clip_id].latent

    def captions_of(self, sample: Sample) -> list[tuple[str, str, str]]:
        return self.held[sample.clip_id].captions

    def embedding(self, sample: Sample, caption_id: str) -> Tensor:
        return self.held[sample.clip_id].texts[caption_id]


class StreamLoader:
    """Packs of one process, step by step; the same interface as `Loader`."""

    def __init__(self, urls: list[str], reader: StreamReader, rank: int = 0, world_size: int = 1) -> None:
        self.urls, self.reader, self.rank, self.world_size = urls[rank::world_size], reader, rank, world_size
        self._left_out: list[str] = []
        """Clips that could not be read since the last one that could."""
        if not self.urls:
            raise UsageError(
                "--tars",
                f"{len(urls)} are fewer than the {world_size} processes that read them",
                "Export with smaller shards.",
            )

    def _clips(self, first: int) -> Iterator[tuple[int, StreamedClip]]:
        """(epoch, clip) without end."""
        for epoch in itertools.count():
            seed = int(
                np.random.default_rng([self.reader.config.seed, first, epoch, self.rank]).integers(1 << 31)
            )
            count = 0
            for clip in stream(self.urls, seed, self._leave_out):
                if not self._is_held_out(clip):
                    count += 1
                    yield epoch, clip
            if not count:
                raise UsageError(
                    ", ".join(self.urls), "hold no clip to train on", "Lower --held-out, or export more."
                )

    def _leave_out(self, error: IntegrityError) -> None:
        say(f"--tars: a clip is left out: {error}")
        self._left_out.append(error.subject)

    def _is_held_out(self, clip: StreamedClip) -> bool:
        config = self.reader.config
        return is_held_out(clip.row["clip_id"], config.held_out, config.plan_version)

    def _packs(self, first: int) -> Iterator[tuple[int, list[Sample], list[str]]]:
        """(epoch, samples of a pack, clips left out between them) without end."""
        waiting: dict[int, tuple[int, Sample, list[str]]] = {}

        def lengths() -> Iterator[int]:
            for position, (epoch, clip) in enumerate(self._clips(first)):
                sample = self.reader.hold(clip, epoch)
                waiting[position] = epoch, sample, self._left_out
                self._left_out = []
                yield sample.tokens(self.reader.config.model.patch)

        for chosen in largest_fit(lengths(), self.reader.config.tokens, POOL):
            own = [waiting.pop(position) for position in chosen]
            left_out = [name for _, _, names in own for name in names]
            yield own[0][0], [sample for _, sample, _ in own], left_out

    def mark(self, step: int) -> list[int]:
        """There is no plan to go back to."""
        return []

    def steps_from(
        self, step: int, prepare: Callable[[Pack, int], Any] = lambda pack, step: pack
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """(step, epoch, packs of this process, prepared) without end, in an order set by the first step.

        A thread reads and prepares them ahead.
        """
        with Ahead(self._steps_from(step, prepare), AHEAD) as steps:
            yield from steps

    def _steps_from(
        self, step: int, prepare: Callable[[Pack, int], Any]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        packs, each = self._packs(step), self.reader.config.packs_per_step // self.world_size
        for number in itertools.count(step):
            chosen = [next(packs) for _ in range(each)]
            read = [self.reader.read(samples, epoch) for epoch, samples, _ in chosen]
            read = [
                replace(pack, corrupt=[*pack.corrupt, *left_out])
                for pack, (_, _, left_out) in zip(read, chosen, strict=True)
            ]
            for _, samples, _ in chosen:
                self.reader.let_go(samples)
            yield number, chosen[0][0], [prepare(pack, number) for pack in read]


def survey(urls: list[str], config: FitConfig) -> tuple[Catalog, list[StreamedClip], dict[str, Any]]:
    """What the first clips tell: sizes, statistics of the latents, some held-out clips, and what made them.

    Raises:
        UsageError: there are none, or they are of several VAEs or text encoders.
    """
    left_out = list[IntegrityError]()
    clips = list(itertools.islice(stream(urls, left_out=left_out.append), SURVEY))
    if not clips and left_out:
        first = left_out[0]
        raise UsageError(f"--tars {first.subject}", first.cause, first.next_step) from first
    if not clips:
        raise UsageError(", ".join(urls), "hold no clip", "Make them with `rushes export`.")
    for clip in clips:
        check_kind(clip, kind_of(clips[0]))
    aside = [
        clip for clip in clips if is_held_out(clip.row["clip_id"], config.held_out, config.plan_version)
    ][:HELD_OUT]
    if not aside:
        aside = clips[:1]
        one = aside[0].row["clip_id"]
        say(f"held out: none of the first {len(clips)} clips are, so {one} is, which is trained on too")
    digest = hashlib.sha256("|".join([*urls, *(clip.row["clip_id"] for clip in clips)]).encode()).hexdigest()[
        :16
    ]
    record = {"columns": {}, **clips[0].row.get("made_by", {})}
    return catalog_of(clips, digest), aside, record


def catalog_of(clips: list[StreamedClip], digest: str) -> Catalog:
    """A catalogue with the sizes and statistics of clips that are held in memory; it lists none of them."""
    first = clips[0]
    values = [mean.float().flatten(1) for mean, _ in (clip.latent for clip in clips)]
    every = torch.cat(values, dim=1)
    mean, std = every.mean(1), every.std(1, correction=0)  # of posterior means, as a dataset's are
    factors = (first.row["factor_t"], first.row["factor_px"], first.row["factor_px"])
    width = text_width(first)
    return Catalog(
        SampleTable.of([]),
        [],
        {},
        {},
        [],
        mean.tolist(),
        std.tolist(),
        first.row["num_channels"],
        factors,
        width,
        digest,
        kind_of(first)["vae_digest"],
    )
