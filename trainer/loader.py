"""The loader: planned packs to tensors, by a few threads that read ahead.

One ranged read per member, crc32 checked. An unreadable sample is left out of its pack, named and counted; later packs do not shift, so
determinism survives. What a sample draws (its caption, its text dropout) is a function of (seed, epoch, sample), so any rank, any number of
threads and any resumed run draw the same.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captioner.mixing import Mixing, draw
from manifests.cli import say
from manifests.errors import RushesError
from manifests.layout import Dataset
from manifests.reading import MemberReader, RangeCache
from trainer.catalog import Catalog
from trainer.config import FitConfig
from trainer.curriculum import Curriculum
from trainer.packs import rank_packs
from trainer.patches import coordinates, patchify_into, token_validity
from trainer.plan_stream import PlanStream
from trainer.samples import Sample
from trainer.tensors import tensors_in
from vae.grid import Extent


@dataclass
class Pack:
    """Samples of many shapes in one sequence.

    N tokens, S samples, P patch size (channels x cells), L text tokens.
    clean: [N, P] normalised latents; valid: [N, P / C] share of real pixels per cell; coords: [N, 3] seconds, y, x in tokens; cu: [S + 1] token
    offsets; text: [L, Dt]; text_cu: [S + 1]; frame: [N] latent frame of each token; shapes: (t, h, w) in tokens per sample; seeds: noise seed per sample;
    corrupt: clips that could not be read; kinds: kind of the caption drawn for each sample, none where it was dropped; cut: samples of which only a window is shown.
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
    cut: list[Sample] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return len(self.clean)

    def part(self, count: int) -> Pack:
        """The first `count` samples."""
        end, words = int(self.cu[count]), int(self.text_cu[count])
        return Pack(
            self.clean[:end], self.valid[:end], self.coords[:end], self.cu[: count + 1], self.text[:words], self.text_cu[: count + 1], self.frame[:end],
            self.shapes[:count], self.samples[:count], self.seeds[:count], [], self.kinds[:count], [],
        )  # fmt: skip


def sample_seed(seed: int, epoch: int, sample: Sample) -> int:
    """A seed for everything random about one showing of a sample in one epoch."""
    key = f"{seed}|{epoch}|{sample.clip_id}" + (f"|{sample.view}|{sample.repeat}" if sample.view or sample.repeat else "")
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")


class PackReader:
    """Reads the samples of a pack and lays them end to end.

    Args:
        dataset: None for a reader that has its bytes from elsewhere (trainer/streaming.py).
        cache: where ranges of an object store are kept; None: they are fetched each time.
    """

    def __init__(self, dataset: Dataset | None, catalog: Catalog, config: FitConfig, cache: RangeCache | None = None) -> None:
        self.dataset, self.catalog, self.config = dataset, catalog, config
        self.members = MemberReader(dataset.filesystem, cache) if dataset else None
        self.mean = torch.tensor(catalog.mean).float().view(-1, 1, 1, 1)
        self.std = torch.tensor(catalog.std).float().clamp_min(1e-4).view(-1, 1, 1, 1)
        self.mixing = Mixing(weights=config.captions)

    def whole_latent(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Mean and log variance of a sample's clip as stored, [C, T, H, W]; they are soon overwritten."""
        path, member = self.catalog.latents[sample.clip_id]
        assert self.members is not None
        tensors = tensors_in(self.members.view(path, member), f"{path}:{member.name}")
        return tensors["mean"], tensors["logvar"]

    def stored(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Mean and log variance of what is shown of a sample, [C, t, h, w], in the VAE's units."""
        part = (
            slice(None), slice(sample.start, sample.start + sample.latent_t), slice(sample.top, sample.top + sample.latent_h),
            slice(sample.left, sample.left + sample.latent_w),
        )  # fmt: skip
        mean, logvar = (torch.empty(value[part].shape).copy_(value[part]) for value in self.whole_latent(sample))
        return mean, logvar

    def _latent(self, sample: Sample, generator: torch.Generator) -> Tensor:
        """A draw from the posterior, normalised per channel: [C, t, h, w]."""
        mean, logvar = self.stored(sample)
        value = torch.randn(mean.shape, generator=generator).mul_(logvar.mul_(0.5).exp_()).add_(mean)
        return value.sub_(self.mean).div_(self.std)

    def captions_of(self, sample: Sample) -> list[tuple[str, str, str]]:
        """(id, kind, source) of each caption of a sample's clip."""
        return self.catalog.views[sample.view].captions[sample.clip_id]

    def embedding(self, sample: Sample, caption_id: str) -> Tensor:
        """A caption's embedding, [L, Dt]."""
        path, member = self.catalog.views[sample.view].texts[sample.clip_id]
        assert self.members is not None
        found = tensors_in(self.members.view(path, member), f"{path}:{member.name}")[caption_id]
        return torch.empty(found.shape).copy_(found)  # a copy: its bytes are soon overwritten

    def text_of(self, sample: Sample, kind: str) -> tuple[str, Tensor]:
        """Id and embedding [L, Dt] of a sample's first caption of a kind, or of its first caption."""
        captions = self.captions_of(sample)
        caption_id = next((name for name, own, _ in captions if own == kind), captions[0][0])
        return caption_id, self.embedding(sample, caption_id)

    def _text(self, sample: Sample, rng: np.random.Generator, dropout: float) -> tuple[Tensor, str]:
        """Embedding [L, Dt] of the caption drawn for this sample and its kind; one row of zeros (the null text) where it is dropped or there is none."""
        captions = self.captions_of(sample)
        index = draw([(kind, source) for _, kind, source in captions], self.mixing, rng)
        if index is None or rng.random() < dropout:
            return torch.zeros(1, self.catalog.text_width), "none"
        return self.embedding(sample, captions[index][0]), captions[index][1]

    def read(self, samples: list[Sample], epoch: int, is_for_validation: bool = False) -> Pack:
        """Read one pack; unreadable samples are left out, named in `corrupt` and on the terminal. For validation no text is dropped."""
        dropout = 0.0 if is_for_validation else self.config.flow.text_dropout
        patch, factors = self.config.model.patch, self.catalog.factors
        cells, total = int(np.prod(patch)), sum(sample.tokens(patch) for sample in samples)
        clean = torch.empty(total, cells * self.catalog.latent_channels)
        valid, coords, frame = torch.empty(total, cells), torch.empty(total, 3), torch.empty(total, dtype=torch.long)
        ends, texts, cut = [0], list[Tensor](), list[Sample]()
        good, corrupt, shapes, seeds, kinds = list[Sample](), list[str](), list[tuple[int, int, int]](), list[int](), list[str]()
        for sample in samples:
            seed = sample_seed(self.config.seed, epoch, sample)
            generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
            try:
                latent, (text, kind) = self._latent(sample, generator), self._text(sample, rng, dropout)
            except (RushesError, OSError, KeyError) as error:
                corrupt.append(sample.clip_id)
                say(f"left out of its pack: clip {sample.clip_id} in shard {sample.shard}: {error}")
                continue
            row = self.catalog.clips[sample.clip_id]
            span = slice(ends[-1], ends[-1] + sample.tokens(patch))
            shape = patchify_into(latent, patch, clean[span])
            whole = Extent(row["num_frames"], row["height_px"], row["width_px"])
            valid[span] = token_validity(whole, sample, patch, factors)
            coords[span], frame[span] = coordinates(shape, patch, row["fps"], sample.start, factors[0])
            if (shape[1], shape[2]) != (-(-row["latent_h"] // patch[1]), -(-row["latent_w"] // patch[2])):
                coords[span] += _from_the_middle(sample, row, patch)
            if (sample.latent_t, sample.latent_h, sample.latent_w) != (row["latent_t"], row["latent_h"], row["latent_w"]):
                cut.append(sample)
            ends.append(span.stop)
            texts.append(text)
            good.append(sample)
            shapes.append(shape)
            seeds.append(seed)
            kinds.append(kind)
        used, text_ends = ends[-1], torch.tensor([0, *(len(text) for text in texts)]).cumsum(0)
        words = torch.cat(texts) if texts else torch.zeros(0, self.catalog.text_width)
        return Pack(
            clean[:used], valid[:used], coords[:used], torch.tensor(ends), words, text_ends, frame[:used], shapes, good, seeds, corrupt, kinds, cut
        )


def _from_the_middle(sample: Sample, row: dict, patch: tuple[int, int, int]) -> Tensor:
    """[3]: how far the middle of a window lies from the middle of its picture, in seconds (none), rows and columns of tokens."""
    down = (sample.top + sample.latent_h / 2 - row["latent_h"] / 2) / patch[1]
    across = (sample.left + sample.latent_w / 2 - row["latent_w"] / 2) / patch[2]
    return torch.tensor([0.0, down, across])


class Loader:
    """Packs of one rank, step by step, read ahead by threads. Its state is the step."""

    def __init__(
        self, reader: PackReader, plan: PlanStream | Curriculum, rank: int = 0, world_size: int = 1, threads: int = 2, ahead: int = 4
    ) -> None:
        if reader.config.packs_per_step % world_size:
            raise ValueError(f"packs_per_step {reader.config.packs_per_step} does not divide by world size {world_size}")
        self.reader, self.plan, self.rank, self.world_size, self.threads, self.ahead = reader, plan, rank, world_size, threads, ahead

    def mark(self, step: int) -> list[int]:
        """Where the plan's epoch of a step began, for a checkpoint."""
        return list(self.plan.mark(step))

    def steps_from(self, step: int, prepare: Callable[[Pack, int], Any] = lambda pack, step: pack) -> Iterator[tuple[int, int, list[Any]]]:
        """(step, epoch, packs of this rank) from `step` on, without end.

        Args:
            prepare: what the threads make of each pack they have read, given its step (`flow.NoisyPack`).
        """

        def made(samples: list[Sample], epoch: int, number: int) -> Any:
            return prepare(self.reader.read(samples, epoch), number)

        per_step = self.reader.config.packs_per_step
        with ThreadPoolExecutor(self.threads, thread_name_prefix="pack") as pool:
            queue: deque[tuple[int, int, list[Future[Any]]]] = deque()
            planned = self.plan.steps_from(step)
            while True:
                for number, epoch, packs in itertools.islice(planned, max(0, self.ahead - len(queue))):
                    mine = rank_packs(packs, self.rank, self.world_size, per_step)
                    queue.append((number, epoch, [pool.submit(made, pack, epoch, number) for pack in mine]))
                number, epoch, futures = queue.popleft()
                yield number, epoch, [future.result() for future in futures]
