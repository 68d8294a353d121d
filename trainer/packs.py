"""The pack plan: which samples share a sequence, at which step. A pure function of the manifest, the seed and the epoch.

Token counts are known from the manifest, so packs are planned without reading data; every rank plans the same list and takes its share, so no
collective is needed, the loader's state is one integer, and the world size may change between runs.
Fill and balance beside other packers: benchmarks/packing.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from manifests.errors import UsageError

POOL = 128
SHARD_WINDOW = 16
BALANCE_STEPS = 16


@dataclass(frozen=True)
class Sample:
    """A clip as the trainer sees it: latents [start, start + length) of it."""

    clip_id: str
    shard: int
    latent_t: int
    latent_h: int
    latent_w: int
    start: int = 0

    def tokens(self, patch: tuple[int, int, int]) -> int:
        return -(-self.latent_t // patch[0]) * -(-self.latent_h // patch[1]) * -(-self.latent_w // patch[2])


def pool_largest_fit(lengths: list[int], budget: int, pool: int = POOL) -> list[list[int]]:
    """Fill bins of `budget` from a look-ahead pool: the oldest first, then again and again the largest that still fits.

    Args:
        lengths: tokens of each item, each <= budget, in stream order.

    Returns:
        Bins of indices. Every index occurs once; none waits for long, since each bin starts with the oldest.
    """
    waiting: list[int] = []
    stream = iter(range(len(lengths)))
    bins: list[list[int]] = []
    while True:
        while len(waiting) < pool and (item := next(stream, None)) is not None:
            waiting.append(item)
        if not waiting:
            return bins
        chosen, room = [waiting.pop(0)], budget
        room -= lengths[chosen[0]]
        while True:
            best, best_at = -1, -1
            for position, item in enumerate(waiting):
                if best < lengths[item] <= room:
                    best, best_at = lengths[item], position
            if best_at < 0:
                break
            chosen.append(waiting.pop(best_at))
            room -= best
        bins.append(chosen)


def pack_cost(tokens: list[int], width: int) -> float:
    """Relative time of a pack: linear layers grow with tokens, attention with their square per sample."""
    return float(sum(count * (1 + count / (6 * width)) for count in tokens))


def windowed(sample: Sample, patch: tuple[int, int, int], budget: int, rng: np.random.Generator) -> Sample:
    """The sample, or where it is longer than the budget a random window of its latents that fits."""
    per_frame = sample.tokens(patch) // -(-sample.latent_t // patch[0])
    if sample.tokens(patch) <= budget:
        return sample
    length = budget // per_frame * patch[0]
    start = int(rng.integers(0, sample.latent_t - length + 1))
    return Sample(sample.clip_id, sample.shard, length, sample.latent_h, sample.latent_w, start)


@dataclass(frozen=True)
class EpochPlan:
    """Steps of an epoch, each a list of packs; and how many samples were windowed to fit the budget."""

    steps: list[list[list[Sample]]]
    num_windowed: int
    fill: float


def plan_epoch(
    samples: list[Sample], *, seed: int, epoch: int, budget: int, packs_per_step: int, patch: tuple[int, int, int], width: int
) -> EpochPlan:
    """Plan one epoch: every sample exactly once.

    Shuffle within windows of shards (reads stay local), fill packs, sort packs by cost within a few steps so that ranks of one step have equal
    work, shuffle the steps. The last step may have fewer packs than `packs_per_step`.

    Raises:
        UsageError: one latent frame of a sample alone exceeds the budget.
    """
    for sample in samples:
        if Sample(sample.clip_id, 0, patch[0], sample.latent_h, sample.latent_w).tokens(patch) > budget:
            raise UsageError(
                "--tokens", f"{budget} are fewer than one frame of clip {sample.clip_id} needs", "Raise the budget, or encode at fewer pixels."
            )
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    by_shard: dict[int, list[int]] = {}
    for index, sample in enumerate(samples):
        by_shard.setdefault(sample.shard, []).append(index)
    shards = [list(by_shard)[position] for position in rng.permutation(len(by_shard))]
    order: list[int] = []
    for begin in range(0, len(shards), SHARD_WINDOW):
        window = np.array([index for shard in shards[begin : begin + SHARD_WINDOW] for index in by_shard[shard]])
        rng.shuffle(window)
        order += window.tolist()
    stream = [windowed(samples[index], patch, budget, rng) for index in order]
    lengths = [sample.tokens(patch) for sample in stream]
    bins = pool_largest_fit(lengths, budget)
    costs = np.array([pack_cost([lengths[index] for index in chosen], width) for chosen in bins])
    steps: list[list[list[Sample]]] = []
    span = packs_per_step * BALANCE_STEPS
    for begin in range(0, len(bins), span):
        window = begin + np.argsort(costs[begin : begin + span], kind="stable")
        groups = [window[at : at + packs_per_step] for at in range(0, len(window), packs_per_step)]
        tail = [groups.pop()] if len(groups) > 1 and len(groups[-1]) < packs_per_step else []
        groups = [groups[position] for position in rng.permutation(len(groups))] + tail
        steps += [[[stream[index] for index in bins[pack]] for pack in group] for group in groups]
    num_windowed = sum(sample.latent_t < samples[index].latent_t for sample, index in zip(stream, order, strict=True))
    return EpochPlan(steps, num_windowed, sum(lengths) / (budget * len(bins)))


def rank_packs(step: list[list[Sample]], rank: int, world_size: int, packs_per_step: int) -> list[list[Sample]]:
    """The packs of one rank at one step; empty packs fill up so that all ranks have equally many."""
    padded = [*step, *([] for _ in range(packs_per_step - len(step)))]
    return padded[rank::world_size]


class PlanStream:
    """Steps of all epochs in a row, addressed by one integer."""

    def __init__(self, samples: list[Sample], *, seed: int, budget: int, packs_per_step: int, patch: tuple[int, int, int], width: int) -> None:
        self._samples, self._settings = samples, {"seed": seed, "budget": budget, "packs_per_step": packs_per_step, "patch": patch, "width": width}
        self._epoch, self._first, self._plan = -1, 0, EpochPlan([], 0, 0.0)

    def at(self, step: int) -> tuple[int, list[list[Sample]]]:
        """(epoch, packs) of a global step, counted from 0."""
        if step < self._first:
            self._epoch, self._first, self._plan = -1, 0, EpochPlan([], 0, 0.0)
        while step >= self._first + len(self._plan.steps):
            self._first += len(self._plan.steps)
            self._epoch += 1
            self._plan = plan_epoch(self._samples, epoch=self._epoch, **self._settings)  # type: ignore[arg-type]
        return self._epoch, self._plan.steps[step - self._first]

    def steps_from(self, step: int) -> Iterator[tuple[int, int, list[list[Sample]]]]:
        """(step, epoch, packs) without end, from `step` on."""
        while True:
            epoch, packs = self.at(step)
            yield step, epoch, packs
            step += 1
