"""The loader: planned packs to tensors, by a few threads that read ahead.

One ranged read per member, crc32 checked. An unreadable sample is left out of its pack, named and counted; later packs do not shift, so
determinism survives. What a sample draws (its caption, its text dropout) is a function of (seed, epoch, sample), so any rank, any number of
threads and any resumed run draw the same.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from captioner.mixing import Mixing, draw
from manifests.cli import say
from manifests.errors import RushesError
from manifests.layout import Dataset
from manifests.shards import read_member
from trainer.catalog import Catalog
from trainer.config import FitConfig
from trainer.packs import PlanStream, Sample, rank_packs
from trainer.patches import coordinates, patchify, token_validity
from vae.grid import Extent


@dataclass
class Pack:
    """Samples of many shapes in one sequence.

    N tokens, S samples, P patch size (channels x cells), L text tokens.
    clean: [N, P] normalised latents; valid: [N, P / C] share of real pixels per cell; coords: [N, 3] seconds, y, x in tokens; cu: [S + 1] token
    offsets; text: [L, Dt]; text_cu: [S + 1]; frame: [N] latent frame of each token; shapes: (t, h, w) in tokens per sample; seeds: noise seed per sample;
    kinds: kind of the caption drawn for each sample, none where it was dropped.
    """

    clean: Tensor
    valid: Tensor
    coords: Tensor
    cu: Tensor
    text: Tensor
    text_cu: Tensor
    frame: Tensor
    shapes: list[tuple[int, int, int]]
    samples: list[Sample]
    seeds: list[int]
    corrupt: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return len(self.clean)


def sample_seed(seed: int, epoch: int, clip_id: str) -> int:
    """A seed for everything random about one sample in one epoch."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{epoch}|{clip_id}".encode()).digest()[:6], "big")


class PackReader:
    """Reads the samples of a pack and lays them end to end."""

    def __init__(self, dataset: Dataset, catalog: Catalog, config: FitConfig) -> None:
        self.dataset, self.catalog, self.config = dataset, catalog, config
        self.mean, self.std = torch.tensor(catalog.mean).float(), torch.tensor(catalog.std).float().clamp_min(1e-4)
        self.mixing = Mixing(weights=config.captions)

    def _latent(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A draw from the posterior, normalised per channel: [C, t, h, w]."""
        path, member = self.catalog.latents[sample.clip_id]
        tensors = load(read_member(self.dataset.filesystem, path, member))
        part = slice(sample.start, sample.start + sample.latent_t)
        mean, logvar = tensors["mean"][:, part].float(), tensors["logvar"][:, part].float()
        value = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator)
        return (value - self.mean.view(-1, 1, 1, 1)) / self.std.view(-1, 1, 1, 1)

    def _text(self, clip_id: str, rng: np.random.Generator) -> tuple[Tensor, str]:
        """Embedding [L, Dt] of the caption drawn for this sample and its kind; one row of zeros (the null text) where it is dropped or there is none."""
        captions = self.catalog.captions[clip_id]
        index = draw([(kind, source) for _, kind, source in captions], self.mixing, rng)
        if index is None or rng.random() < self.config.flow.text_dropout:
            return torch.zeros(1, self.catalog.text_width), "none"
        path, member = self.catalog.texts[clip_id]
        return load(read_member(self.dataset.filesystem, path, member))[captions[index][0]].float(), captions[index][1]

    def read(self, samples: list[Sample], epoch: int) -> Pack:
        """Read one pack; unreadable samples are left out and named in `corrupt`."""
        patch, factors = self.config.model.patch, self.catalog.factors
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        good, corrupt, shapes, seeds, kinds = [], [], [], [], []
        for sample in samples:
            seed = sample_seed(self.config.seed, epoch, sample.clip_id)
            generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
            try:
                latent, (text, kind) = self._latent(sample, generator), self._text(sample.clip_id, rng)
            except (RushesError, OSError, SafetensorError, KeyError) as error:
                corrupt.append(f"clip {sample.clip_id} in shard {sample.shard}: {error}")
                continue
            row = self.catalog.clips[sample.clip_id]
            extent = Extent(row["num_frames"], row["height_px"], row["width_px"])
            tokens, shape = patchify(latent, patch)
            coords, frame = coordinates(shape, patch, row["fps"], sample.start, factors[0])
            parts.append((tokens, token_validity(extent, sample.start, sample.latent_t, patch, factors), coords, frame, text))
            good.append(sample)
            shapes.append(shape)
            seeds.append(seed)
            kinds.append(kind)
        if not parts:
            return self._empty(corrupt)
        clean, valid, coords, frame, text = (torch.cat(column) for column in zip(*parts, strict=True))
        lengths = torch.tensor([0, *(len(part[0]) for part in parts)])
        text_lengths = torch.tensor([0, *(len(part[4]) for part in parts)])
        return Pack(clean, valid, coords, lengths.cumsum(0), text, text_lengths.cumsum(0), frame, shapes, good, seeds, corrupt, kinds)

    def _empty(self, corrupt: list[str]) -> Pack:
        cells = int(np.prod(self.config.model.patch))
        zero = torch.zeros(1, dtype=torch.long)
        return Pack(
            torch.zeros(0, cells * self.catalog.latent_channels), torch.zeros(0, cells), torch.zeros(0, 3), zero, torch.zeros(0, self.catalog.text_width),
            zero, torch.zeros(0, dtype=torch.long), [], [], [], corrupt,
        )  # fmt: skip


class Loader:
    """Packs of one rank, step by step, read ahead by threads. Its state is the step."""

    def __init__(self, reader: PackReader, plan: PlanStream, rank: int = 0, world_size: int = 1, threads: int = 2, ahead: int = 4) -> None:
        if reader.config.packs_per_step % world_size:
            raise ValueError(f"packs_per_step {reader.config.packs_per_step} does not divide by world size {world_size}")
        self.reader, self.plan, self.rank, self.world_size, self.threads, self.ahead = reader, plan, rank, world_size, threads, ahead
        self.num_corrupt = self.num_read = 0

    def _check(self, pack: Pack) -> Pack:
        for text in pack.corrupt:
            say(f"left out of its pack: {text}")
        self.num_corrupt += len(pack.corrupt)
        self.num_read += len(pack.corrupt) + len(pack.samples)
        limit = self.reader.config.max_corrupt
        if self.num_corrupt > max(3, limit * self.num_read):
            raise RushesError(
                self.reader.dataset.uri,
                f"{self.num_corrupt} of {self.num_read} samples are unreadable, over the limit of {limit:.0%}",
                "Run `python -m manifests verify --deep`.",
            )
        return pack

    def steps_from(self, step: int) -> Iterator[tuple[int, int, list[Pack]]]:
        """(step, epoch, packs of this rank) from `step` on, without end."""
        per_step = self.reader.config.packs_per_step
        with ThreadPoolExecutor(self.threads, thread_name_prefix="pack") as pool:
            queue: deque[tuple[int, int, list[Future[Pack]]]] = deque()
            planned = self.plan.steps_from(step)
            while True:
                for number, epoch, packs in itertools.islice(planned, max(0, self.ahead - len(queue))):
                    mine = rank_packs(packs, self.rank, self.world_size, per_step)
                    queue.append((number, epoch, [pool.submit(self.reader.read, pack, epoch) for pack in mine]))
                number, epoch, futures = queue.popleft()
                yield number, epoch, [self._check(future.result()) for future in futures]
