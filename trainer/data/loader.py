"""The loader: planned packs to tensors, by a few threads that read ahead.

One ranged read per member, crc32 checked. An unreadable sample is left out of its pack, named and counted;
later packs do not shift, so determinism survives. What a sample draws (its caption, its text dropout) is a
function of (seed, epoch, sample), so any rank, any number of threads and any resumed run draw the same.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioner.mixing import Mixing, draw
from manifests.cli import say
from manifests.errors import IntegrityError, RushesError
from manifests.layout import Dataset
from manifests.store.reading import MemberReader, RangeCache
from manifests.store.storage import is_local
from trainer.config import FitConfig
from trainer.data.ahead import Ahead
from trainer.data.catalogue.catalog import Catalog
from trainer.data.curriculum import Curriculum
from trainer.data.packs import rank_packs
from trainer.data.patches import coordinates, patchify, token_validity
from trainer.data.plan_stream import PlanStream
from trainer.data.samples import Sample, Size
from trainer.data.tensors import tensors_in
from vae.grid import Extent
from vae.stored import mean_and_logvar, of_slabs

MOST_AHEAD = 32
"""Steps read ahead of small packs, to keep all reads under way."""
TEXT_DTYPE = torch.bfloat16
"""What embeddings of captions are stored in, and stay in until the model reads them."""
READS_LOCAL, READS_FAR = 4, 48
"""Samples that are fetched at once from a disk, and from an object store, whose answers take tens of ms."""


@dataclass(frozen=True)
class Member:
    """One sample of a pack and what was drawn for it."""

    sample: Sample
    grid: Size  # (t, h, w) in tokens
    seed: int  # of its noise
    caption_kind: str  # "none" where the caption was dropped
    is_window: bool  # only a part of the clip is shown


@dataclass(frozen=True)
class SampleTokens:
    """The tensors of one sample of n tokens, before they are joined into a pack; shapes as in `Pack`."""

    clean: Tensor
    valid: Tensor
    coords: Tensor
    frame: Tensor
    text: Tensor


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Samples of many shapes, end to end in one sequence.

    Shape legend: N tokens, S samples, P patch values (cells x channels), L text tokens, Dt text width.
    """

    members: list[Member]  # S
    corrupt: list[str]  # clips that could not be read and were left out
    clean: Tensor  # [N, P] normalised latents
    valid: Tensor  # [N, cells] share of real pixels in each latent cell, 0 where the patch is padding
    coords: Tensor  # [N, 4] seconds, row, column, whether it holds the clip's first latent
    frame: Tensor  # [N] place in time of each token, in temporal patches
    cu: Tensor  # [S + 1] token offsets
    text: Tensor  # [L, Dt] caption embeddings, in what they are stored in
    text_cu: Tensor  # [S + 1] text offsets

    @property
    def num_tokens(self) -> int:
        return len(self.clean)

    @property
    def samples(self) -> list[Sample]:
        return [member.sample for member in self.members]


def offsets_of(lengths: Iterable[int]) -> Tensor:
    """Offsets [S + 1] of S sequences laid end to end: lengths 3, 2 give 0, 3, 5."""
    return torch.tensor([0, *lengths]).cumsum(0)


def sample_seed(seed: int, epoch: int, sample: Sample) -> int:
    """A seed for everything random about one showing of a sample in one epoch."""
    key = f"{seed}|{epoch}|{sample.clip_id}" + (
        f"|{sample.view}|{sample.repeat}" if sample.view or sample.repeat else ""
    )
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")


class PackReader:
    """Reads the samples of a pack and lays them end to end.

    Args:
        dataset: None for a reader that has its bytes from elsewhere (trainer/data/tars/streaming.py).
        cache: where ranges of an object store are kept; None: they are fetched each time.
    """

    def __init__(
        self, dataset: Dataset | None, catalog: Catalog, config: FitConfig, cache: RangeCache | None = None
    ) -> None:
        self.dataset, self.catalog, self.config = dataset, catalog, config
        self.members = MemberReader(dataset.filesystem, cache) if dataset else None
        self.mean = torch.tensor(catalog.mean).float().view(-1, 1, 1, 1)
        self.std = torch.tensor(catalog.std).float().clamp_min(1e-4).view(-1, 1, 1, 1)
        self.mixing = Mixing(weights=config.captions)

    def row_of(self, sample: Sample) -> dict[str, Any]:
        """What `latents` says of a sample's clip."""
        return self.catalog.clips[sample.clip_id]

    def whole_latent(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Mean and log variance of a sample's clip as stored, [C, T, H, W]; they are soon overwritten."""
        path, member = self.catalog.latents[sample.clip_id]
        assert self.members is not None
        return mean_and_logvar(tensors_in(self.members.view(path, member), f"{path}:{member.name}"))

    def stored(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Mean and log variance of what is shown of a sample, [C, t, h, w], in the VAE's units."""
        in_time, found = self._in_time(sample)
        part = (
            slice(None),
            in_time,
            slice(sample.top, sample.top + sample.latent_h),
            slice(sample.left, sample.left + sample.latent_w),
        )
        mean, logvar = (torch.empty(value[part].shape).copy_(value[part]) for value in found)
        return mean, logvar

    def _in_time(self, sample: Sample) -> tuple[slice, tuple[Tensor, Tensor]]:
        """Which latents in time a sample shows, of what is read: its slabs alone where its clip has them."""
        row = self.row_of(sample)
        span = slice(sample.start, sample.start + sample.latent_t)
        if self.members is None or row.get("slab_offset") is None or sample.latent_t == row["latent_t"]:
            return span, self.whole_latent(sample)
        path, member = self.catalog.latents[sample.clip_id]
        shape = (2, row["num_channels"], row["latent_h"], row["latent_w"])
        size = 2 * math.prod(shape)  # of a slab, in bfloat16
        offset = row["slab_offset"] + sample.start * size
        data = self.members.slabs(path, member, offset, size, row["slab_crc32"][span])
        return slice(None), of_slabs(torch.from_numpy(data).view(torch.bfloat16).view(-1, *shape))

    def _latent(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A draw from the posterior, normalised per channel: [C, t, h, w]."""
        mean, logvar = self.stored(sample)
        value = torch.randn(mean.shape, generator=generator).mul_(logvar.mul_(0.5).exp_()).add_(mean)
        if not value.sum().isfinite():
            raise IntegrityError(sample.clip_id, "its latent is not finite", "Encode it again.")
        return value.sub_(self.mean).div_(self.std)

    def captions_of(self, sample: Sample) -> list[tuple[str, str, str]]:
        """(id, kind, source) of each caption of a sample's clip."""
        return self.catalog.views[sample.view].captions[sample.clip_id]

    def embedding(self, sample: Sample, caption_id: str) -> Tensor:
        """A caption's embedding, [L, Dt]."""
        path, member = self.catalog.views[sample.view].texts[sample.clip_id]
        assert self.members is not None
        found = tensors_in(self.members.view(path, member), f"{path}:{member.name}")[caption_id]
        return found.clone()  # its bytes are soon overwritten

    def text_of(self, sample: Sample, kind: str) -> tuple[str, Tensor]:
        """Id and embedding [L, Dt] of a sample's first caption of a kind, or of its first caption."""
        captions = self.captions_of(sample)
        caption_id = next((name for name, own, _ in captions if own == kind), captions[0][0])
        return caption_id, self.embedding(sample, caption_id)

    def _text(self, sample: Sample, rng: np.random.Generator, dropout: float) -> tuple[Tensor, str]:
        """The caption drawn for a sample: its embedding [L, Dt] and its kind.

        If it is dropped or there is none, one row of zeros (the null text) and "none".

        Raises:
            IntegrityError: it is not finite.
        """
        captions = self.captions_of(sample)
        index = draw([(kind, source) for _, kind, source in captions], self.mixing, rng)
        if index is None or rng.random() < dropout:
            return torch.zeros(1, self.catalog.text_width, dtype=TEXT_DTYPE), "none"
        name, kind, _ = captions[index]
        found = self.embedding(sample, name)
        if not found.isfinite().all():
            why = f"its embedding of caption {name} is not finite"
            raise IntegrityError(sample.clip_id, why, "Make its texts again.")
        return found, kind

    def read(self, samples: list[Sample], epoch: int, is_for_validation: bool = False) -> Pack:
        """Read the samples of one pack, one after the other.

        A sample that cannot be read is left out, reported on the terminal and listed in `Pack.corrupt`.

        Args:
            epoch: enters the seed of each sample's noise and caption.
            is_for_validation: keep all captions (no text dropout).
        """
        dropout = 0.0 if is_for_validation else self.config.flow.text_dropout
        return self.joined(samples, (self.made(sample, epoch, dropout) for sample in samples))

    def joined(self, samples: list[Sample], made: Iterable[tuple[Member, SampleTokens] | Exception]) -> Pack:
        """The pack of samples that `made` gives, in their order."""
        members, parts, corrupt = list[Member](), list[SampleTokens](), list[str]()
        for sample, found in zip(samples, made, strict=True):
            if isinstance(found, Exception):
                corrupt.append(sample.clip_id)
                say(f"left out of its pack: clip {sample.clip_id} in shard {sample.shard}: {found}")
                continue
            members.append(found[0])
            parts.append(found[1])
        return self._join(members, parts, corrupt)

    def made(self, sample: Sample, epoch: int, dropout: float) -> tuple[Member, SampleTokens] | Exception:
        """One sample of a pack, or why it cannot be read."""
        seed = sample_seed(self.config.seed, epoch, sample)
        try:
            latent = self._latent(sample, torch.Generator().manual_seed(seed))
            text, kind = self._text(sample, np.random.default_rng(seed), dropout)
        except (RushesError, OSError, KeyError) as error:
            return error
        grid, tokens = self._tokenize(sample, latent, text)
        row = self.row_of(sample)
        whole = (row["latent_t"], row["latent_h"], row["latent_w"])
        is_window = (sample.latent_t, sample.latent_h, sample.latent_w) != whole
        return Member(sample, grid, seed, kind, is_window), tokens

    def _tokenize(self, sample: Sample, latent: Tensor, text: Tensor) -> tuple[Size, SampleTokens]:
        """The token grid (t, h, w) of a sample's latent [C, t, h, w], and its tokens."""
        patch, row = self.config.model.patch, self.row_of(sample)
        clean, grid = patchify(latent, patch)
        extent = Extent(row["num_frames"], row["height_px"], row["width_px"])
        valid = token_validity(extent, sample, patch, self.catalog.factors)
        coords, frame = coordinates(
            grid, patch, row["fps"], sample.start, self.catalog.factors[0], sample.latent_t
        )
        if grid[1:] != (-(-row["latent_h"] // patch[1]), -(-row["latent_w"] // patch[2])):
            coords = coords + _window_offset(sample, row, patch)
        return grid, SampleTokens(clean, valid, coords, frame, text)

    def _join(self, members: list[Member], parts: list[SampleTokens], corrupt: list[str]) -> Pack:
        """Lay samples end to end; none of them give a pack of no tokens."""
        cells = math.prod(self.config.model.patch)
        none = SampleTokens(
            clean=torch.zeros(0, cells * self.catalog.latent_channels),
            valid=torch.zeros(0, cells),
            coords=torch.zeros(0, 4),
            frame=torch.zeros(0, dtype=torch.long),
            text=torch.zeros(0, self.catalog.text_width, dtype=TEXT_DTYPE),
        )
        columns = {
            item.name: torch.cat([getattr(part, item.name) for part in [none, *parts]])
            for item in fields(none)
        }
        return Pack(
            members=members,
            corrupt=corrupt,
            cu=offsets_of(len(part.clean) for part in parts),
            text_cu=offsets_of(len(part.text) for part in parts),
            **columns,
        )


def _window_offset(sample: Sample, row: dict, patch: Size) -> Tensor:
    """[4]: rows and columns, in tokens, from the centre of the picture's tokens to that of the window's.

    Of whole tokens: where a side is no multiple of the patch, the last token is part padding, and the centre
    of the tokens is not that of the cells.
    """
    picture, window = (
        (-(-h // patch[1]), -(-w // patch[2]))
        for h, w in ((row["latent_h"], row["latent_w"]), (sample.latent_h, sample.latent_w))
    )
    down = sample.top / patch[1] + (window[0] - picture[0]) / 2
    across = sample.left / patch[2] + (window[1] - picture[1]) / 2
    return torch.tensor([0.0, down, across, 0.0])


class Loader:
    """Packs of one rank, step by step, read ahead by threads. Its state is the step.

    A thread plans; `threads` lay packs out, and `reads` fetch their samples.

    Args:
        reads: samples that are fetched at once; 0: `READS_LOCAL` or `READS_FAR`, by where the dataset lies.
        ahead: steps that are read ahead at least.
    """

    def __init__(
        self,
        reader: PackReader,
        plan: PlanStream | Curriculum,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
        ahead: int = 4,
        reads: int = 0,
    ) -> None:
        if reader.config.packs_per_step % world_size:
            raise ValueError(
                f"packs_per_step {reader.config.packs_per_step} does not divide by world size {world_size}"
            )
        self.reader, self.plan, self.rank, self.world_size, self.threads, self.ahead = (
            reader,
            plan,
            rank,
            world_size,
            threads,
            ahead,
        )
        is_far = reader.dataset is not None and not is_local(reader.dataset.filesystem)
        self.reads = reads or reader.config.reads or (READS_FAR if is_far else READS_LOCAL)

    def mark(self, step: int) -> list[int]:
        """Where the plan's epoch of a step began, for a checkpoint."""
        return list(self.plan.mark(step))

    def steps_from(
        self, step: int, prepare: Callable[[Pack, int], Any] = lambda pack, step: pack
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """(step, epoch, packs of this rank) from `step` on, without end.

        Args:
            prepare: what the threads make of each pack they have read, given its step (`flow.NoisyPack`).
        """
        per_step = self.reader.config.packs_per_step

        dropout = self.reader.config.flow.text_dropout

        def mine(packs: list[Any]) -> list[Any]:
            return rank_packs(packs, self.rank, self.world_size, per_step)

        def joined(samples: list[Sample], made: list[Future[Any]], number: int) -> Any:
            return prepare(self.reader.joined(samples, (one.result() for one in made)), number)

        with (
            ThreadPoolExecutor(self.threads, thread_name_prefix="pack") as pool,
            ThreadPoolExecutor(self.reads, thread_name_prefix="read") as readers,
            Ahead(self.plan.steps_from(step, mine), MOST_AHEAD) as planned,
        ):
            queue: deque[tuple[int, int, int, list[Future[Any]]]] = deque()
            try:
                while True:
                    # so many steps that all reads are under way, of small packs more than of large ones
                    while len(queue) < self.ahead or (
                        len(queue) < MOST_AHEAD and sum(count for _, _, count, _ in queue) < 2 * self.reads
                    ):
                        number, epoch, packs = next(planned)
                        futures = []
                        for pack in packs:
                            made = [
                                readers.submit(self.reader.made, sample, epoch, dropout) for sample in pack
                            ]
                            futures.append(pool.submit(joined, pack, made, number))
                        queue.append((number, epoch, sum(map(len, packs)), futures))
                    number, epoch, _, futures = queue.popleft()
                    yield number, epoch, [future.result() for future in futures]
            finally:  # what is not begun need not be read any more
                readers.shutdown(cancel_futures=True)
                pool.shutdown(cancel_futures=True)
