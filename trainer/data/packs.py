"""The pack plan: which samples share a sequence, at which step.

A pure function of the manifest, the seed and the epoch.

Token counts are known from the manifest, so packs are planned without reading data; every rank plans the same
list and takes its share, so no collective is needed, the loader's state is one integer, and the world size
may change between runs.

Samples are columns of numbers and a plan holds their indices, made window by window of shards as it is asked
for: planning a million takes seconds and little memory. Fill, balance and speed beside other packers:
benchmarks/packing.py.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from manifests.errors import UsageError
from trainer.config import FitConfig
from trainer.data.samples import Sample, SampleTable, Window
from trainer.data.windows import Cutter

POOL = 128
SHARD_WINDOW = 16
BALANCE_STEPS = 32
PLAN_VERSION = 2
"""Goes up with every change after which the same settings give another plan; a run of another version is not
resumed."""
_SHIFT = 40
_MASK = (1 << _SHIFT) - 1

Chosen = list[list[int]]
"""Packs of one step, each a list of indices of samples."""


def largest_fit(lengths: Iterable[int], budget: int, pool: int = POOL) -> Iterator[list[int]]:
    """Fill bins of `budget` tokens from a look-ahead pool: the oldest item, then the largest that fits.

    Args:
        lengths: tokens of each item, each <= budget, in stream order.

    Returns:
        Bins of positions in the stream. Every one occurs once; none waits for long, since each bin starts
        with the oldest.
    """
    waiting: list[
        int
    ] = []  # length and age in one number, sorted: of equal lengths the older stands later and is taken first
    order: deque[int] = deque()  # the same numbers, oldest first
    gone: set[int] = set()
    stream = enumerate(lengths)

    def fill_up() -> None:
        while len(waiting) < pool and (item := next(stream, None)) is not None:
            key = item[1] << _SHIFT | _MASK - item[0]
            waiting.insert(bisect_left(waiting, key), key)
            order.append(key)

    fill_up()
    while waiting:
        while order[0] in gone:
            gone.discard(order.popleft())
        key = order.popleft()
        del waiting[bisect_left(waiting, key)]
        chosen, room = [_MASK - (key & _MASK)], budget - (key >> _SHIFT)
        while (at := bisect_right(waiting, room << _SHIFT | _MASK) - 1) >= 0:
            key = waiting.pop(at)
            gone.add(key)
            chosen.append(_MASK - (key & _MASK))
            room -= key >> _SHIFT
            if not waiting:  # many small ones: more than the pool holds go into one bin
                fill_up()
        yield chosen
        fill_up()


def pool_largest_fit(lengths: Iterable[int], budget: int, pool: int = POOL) -> list[list[int]]:
    """All bins of `largest_fit`."""
    return list(largest_fit(lengths, budget, pool))


def pack_cost(tokens: list[int], attention_cost: float) -> float:
    """Relative time of a pack: linear layers grow with tokens, attention with their square per sample."""
    return float(sum(count * (1 + count * attention_cost) for count in tokens))


@dataclass
class EpochPlan:
    """Steps of an epoch as they are made.

    Attributes:
        windows: what is shown of each sample that was too long or too large, by index.
        num_tokens, num_packs: planned so far.
    """

    table: SampleTable
    budget: int
    windows: dict[int, Window] = field(default_factory=dict)
    num_tokens: int = 0
    num_packs: int = 0
    steps: list[Chosen] = field(default_factory=list)

    @property
    def fill(self) -> float:
        """Share of the budget that is tokens."""
        return self.num_tokens / max(1, self.budget * self.num_packs)

    def sample(self, index: int) -> Sample:
        """The sample behind an index, windowed as planned.

        Indices from n on are further showings of the same samples.
        """
        table = self.table
        repeat, at = divmod(index, len(table))
        whole = Window(0, int(table.latent_t[at]), 0, int(table.latent_h[at]), 0, int(table.latent_w[at]))
        start, length, top, height, left, width = self.windows.get(index, whole)
        view = 0 if table.view is None else int(table.view[at])
        return Sample(
            table.clip_ids[at], int(table.shard[at]), length, height, width, start, top, left, repeat, view
        )

    def packs(self, step: Chosen) -> list[list[Sample]]:
        """The packs of a step as samples."""
        return [[self.sample(index) for index in pack] for pack in step]

    def forget(self, step: Chosen) -> None:
        """Let go of the windows of a step that is done with, so that an epoch does not hold them all."""
        if self.windows:
            for pack in step:
                for index in pack:
                    self.windows.pop(index, None)


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """What a plan depends on, besides the samples and the epoch.

    Attributes:
        budget: tokens of a pack.
        packs_per_step: packs of a step over all ranks.
        attention_cost: of a squared token, where a token costs 1: what packs are balanced by.
        max_tokens: of one sample; 0: the budget.
        is_covering: whether an epoch shows all of a sample that is longer, in consecutive windows; else one
            random window.
        is_cropping: whether a frame that has more tokens than that alone is shown through a window of its
            cells; else it is refused.
    """

    seed: int
    budget: int
    packs_per_step: int
    patch: tuple[int, int, int]
    attention_cost: float
    max_tokens: int = 0
    is_covering: bool = True
    is_cropping: bool = False

    @property
    def limit(self) -> int:
        """Most tokens of a sample."""
        return min(self.budget, self.max_tokens or self.budget)


def attention_cost_of(config: FitConfig) -> float:
    """Cost of a squared token relative to a token: measured on the device, or by operations.

    By operations, attention takes n^2 where the linear layers take 6 n times the width.
    """
    return config.attention_cost or 1 / (6 * config.model.width)


def pack_settings(config: FitConfig) -> PackSettings:
    """What a run's plan depends on."""
    model = config.model
    return PackSettings(
        seed=config.seed,
        budget=config.tokens,
        packs_per_step=config.packs_per_step,
        patch=model.patch,
        attention_cost=attention_cost_of(config),
        is_covering=config.long_clips == "cover",
        is_cropping=config.oversize == "window",
    )


def _shard_windows(
    table: SampleTable, pieces: np.ndarray, epoch: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Indices of all showings of an epoch: a few shards at a time in random order, shuffled within."""
    draws = table.draws(epoch)
    showings = pieces if draws is None else draws * pieces
    is_plain = bool((showings == 1).all())
    by_shard = np.argsort(table.shard, kind="stable")
    names, starts = np.unique(table.shard[by_shard], return_index=True)
    ends = np.append(starts[1:], len(by_shard))
    order = rng.permutation(len(names))
    for begin in range(0, len(order), SHARD_WINDOW):
        window = np.concatenate(
            [by_shard[starts[name] : ends[name]] for name in order[begin : begin + SHARD_WINDOW]]
        )
        if not is_plain:
            count = showings[window]
            window = np.concatenate(
                [window[count > repeat] + repeat * len(table) for repeat in range(int(count.max(initial=0)))]
                or [window[:0]]
            )
        rng.shuffle(window)
        yield window


def plan_steps(plan: EpochPlan, settings: PackSettings, epoch: int) -> Iterator[Chosen]:
    """The steps of an epoch, every sample exactly as often as its weight says: once, if it has none.

    Shuffle within windows of shards (reads stay local), show what is over the limit in parts, fill packs,
    sort packs by cost within a few steps so that ranks of one step have equal work, shuffle these steps. The
    last step may have fewer packs than `packs_per_step`.

    Raises:
        UsageError: one latent frame of a sample alone exceeds the budget.
    """
    table, patch, budget, limit = plan.table, settings.patch, settings.budget, settings.limit
    per_frame = table.per_frame(patch)
    if not settings.is_cropping and (over := np.flatnonzero(per_frame > limit)).size:
        raise UsageError(
            "--tokens",
            f"{limit} are fewer than the {per_frame[over[0]]} that one frame of clip "
            f"{table.clip_ids[over[0]]} needs ({over.size} clips are so)",
            "Raise the budget, encode at fewer pixels, or give --oversize window to show a part of such "
            "frames.",
        )
    rng = np.random.Generator(np.random.Philox(key=[settings.seed, epoch]))
    cutter = Cutter(table, patch, limit, settings.is_covering)
    ahead: dict[int, int] = {}  # index of the sample at each position of the stream that is not in a step yet
    lengths_at: dict[int, int] = {}

    def lengths() -> Iterator[int]:
        position = 0
        for window in _shard_windows(table, cutter.pieces, epoch, rng):
            base = window % len(table)
            tokens = -(-table.latent_t[base] // patch[0]) * per_frame[base]
            for at in np.flatnonzero(cutter.is_over[base]):
                cut = plan.windows[int(window[at])] = cutter.cut(int(window[at]), rng)
                tokens[at] = (
                    -(-cut.length // patch[0]) * -(-cut.height // patch[1]) * -(-cut.width // patch[2])
                )
            counts = tokens.tolist()
            places = range(position, position + len(counts))
            ahead.update(zip(places, window.tolist(), strict=True))
            lengths_at.update(zip(places, counts, strict=True))
            position += len(counts)
            yield from counts

    def emitted(bins: list[list[int]]) -> Iterator[Chosen]:
        """Steps of a span of packs, balanced."""
        sizes = np.fromiter((len(chosen) for chosen in bins), np.int64, len(bins))
        flat = [item for chosen in bins for item in chosen]
        count = np.fromiter(map(lengths_at.pop, flat), float, len(flat))
        begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        costs = np.add.reduceat(count * (1 + count * settings.attention_cost), begins)
        plan.num_tokens += int(count.sum())
        plan.num_packs += len(bins)
        indices = list(map(ahead.pop, flat))
        packs = [
            indices[begin : begin + size] for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True)
        ]
        ranked = np.argsort(costs, kind="stable")
        groups = [
            ranked[at : at + settings.packs_per_step] for at in range(0, len(ranked), settings.packs_per_step)
        ]
        tail = [groups.pop()] if len(groups) > 1 and len(groups[-1]) < settings.packs_per_step else []
        groups = [groups[position] for position in rng.permutation(len(groups))] + tail
        for group in groups:
            yield [packs[at] for at in group]

    span, waiting = settings.packs_per_step * BALANCE_STEPS, list[list[int]]()
    for chosen in largest_fit(lengths(), budget):
        waiting.append(chosen)
        if len(waiting) == span:
            yield from emitted(waiting)
            waiting = []
    if waiting:
        yield from emitted(waiting)


def plan_epoch(table: SampleTable, settings: PackSettings, epoch: int) -> EpochPlan:
    """A whole epoch at once."""
    plan = EpochPlan(table, settings.budget)
    plan.steps = list(plan_steps(plan, settings, epoch))
    return plan


def rank_packs(step: list, rank: int, world_size: int, packs_per_step: int) -> list:
    """The packs of one rank at one step; empty packs fill up so that all ranks have equally many.

    Dealt to and fro, since they are sorted by cost.
    """
    padded = [*step, *([] for _ in range(packs_per_step - len(step)))]
    rounds = [padded[at : at + world_size] for at in range(0, packs_per_step, world_size)]
    return [row[rank if number % 2 == 0 else world_size - 1 - rank] for number, row in enumerate(rounds)]
