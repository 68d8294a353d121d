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

import itertools
from bisect import bisect_left, bisect_right, insort
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
"""Within so many steps packs are made equal."""

Chosen = list[list[int]]
"""Packs of one step, each a list of indices of samples."""


Item = tuple[int, int]
"""Tokens of an item, and minus its position: sorted, of equal lengths the oldest stands last."""


def largest_fit(lengths: Iterable[int], budget: int, pool: int = POOL) -> Iterator[list[int]]:
    """Fill bins of `budget` tokens from a look-ahead pool: the oldest item, then the largest that fits.

    Args:
        lengths: tokens of each item, each <= budget, in stream order.

    Returns:
        Bins of positions in the stream. Every one occurs once; none waits for long, since each bin starts
        with the oldest.
    """
    stream: Iterator[Item] = ((length, -position) for position, length in enumerate(lengths))
    waiting: list[Item] = []  # sorted
    by_age: deque[Item] = deque()  # the same items, oldest first, and some that are gone
    gone: set[Item] = set()

    def fill_up() -> None:
        for item in itertools.islice(stream, max(0, pool - len(waiting))):
            insort(waiting, item)
            by_age.append(item)

    fill_up()
    while waiting:
        while by_age[0] in gone:
            gone.discard(by_age.popleft())
        oldest = by_age.popleft()
        del waiting[bisect_left(waiting, oldest)]
        chosen, room = [-oldest[1]], budget - oldest[0]
        while (at := bisect_right(waiting, (room, 0)) - 1) >= 0:
            item = waiting.pop(at)
            gone.add(item)
            chosen.append(-item[1])
            room -= item[0]
            if not waiting:  # many small ones: more than the pool holds go into one bin
                fill_up()
        yield chosen
        fill_up()


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
        is_resharing: whether a last window of one layer takes some of the one before it.
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
    is_resharing: bool = True

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
        is_resharing=config.plan_version > 2,
    )


def _shard_windows(
    table: SampleTable, pieces: np.ndarray, epoch: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Indices of all showings of an epoch: a few shards at a time in random order, shuffled within."""
    draws = table.draws(epoch)
    showings = pieces if draws is None else draws * pieces
    is_plain = bool((showings == 1).all())
    by_shard = np.argsort(table.shard, kind="stable").astype(np.uint32)
    names, counts = np.unique(table.shard, return_counts=True)
    ends = np.cumsum(counts)
    starts = ends - counts
    order = rng.permutation(len(names))
    for begin in range(0, len(order), SHARD_WINDOW):
        window = np.concatenate(
            [by_shard[starts[name] : ends[name]] for name in order[begin : begin + SHARD_WINDOW]]
        ).astype(np.int64)
        if not is_plain:
            count = showings[window]
            window = np.concatenate(
                [window[count > repeat] + repeat * len(table) for repeat in range(int(count.max(initial=0)))]
                or [window[:0]]
            )
        rng.shuffle(window)
        yield window


class StepPlanner:
    """Plans the steps of one epoch, holding only what is not in a step yet.

    A showing has a position (its turn in the stream of the epoch) and an index (which sample it shows, and
    for which time). `_index` and `_length` are by position, of showings that wait for their step.
    """

    def __init__(self, plan: EpochPlan, settings: PackSettings, epoch: int) -> None:
        self.plan, self.settings, self.epoch = plan, settings, epoch
        self.rng = np.random.Generator(np.random.Philox(key=[settings.seed, epoch]))
        self.cutter = Cutter(
            plan.table, settings.patch, settings.limit, settings.is_covering, settings.is_resharing
        )
        self.per_frame = self.cutter.per_frame
        self._index: dict[int, int] = {}
        self._length: dict[int, int] = {}

    def steps(self) -> Iterator[Chosen]:
        """All steps of the epoch."""
        span, waiting = self.settings.packs_per_step * BALANCE_STEPS, list[list[int]]()
        for positions in largest_fit(self._lengths(), self.settings.budget):
            waiting.append(positions)
            if len(waiting) == span:
                yield from self._balanced(waiting)
                waiting = []
        if waiting:
            yield from self._balanced(waiting)

    def _lengths(self) -> Iterator[int]:
        """Tokens of each showing in the order of the stream; what is over the limit is cut on the way."""
        table, patch, position = self.plan.table, self.settings.patch, 0
        for window in _shard_windows(table, self.cutter.pieces, self.epoch, self.rng):
            base = window % len(table)
            tokens = -(-table.latent_t[base] // patch[0]) * self.per_frame[base]
            for at in np.flatnonzero(self.cutter.is_over[base]):
                cut = self.plan.windows[int(window[at])] = self.cutter.cut(int(window[at]), self.rng)
                tokens[at] = cut.tokens(patch)
            lengths = tokens.tolist()
            positions = range(position, position + len(lengths))
            self._index.update(zip(positions, window.tolist(), strict=True))
            self._length.update(zip(positions, lengths, strict=True))
            position += len(lengths)
            yield from lengths

    def _balanced(self, packs: list[list[int]]) -> Iterator[Chosen]:
        """Steps of a span of packs (lists of positions): packs of one step cost about the same."""
        per_step = self.settings.packs_per_step
        ranked = np.argsort(self._costs(packs), kind="stable")
        groups = [ranked[at : at + per_step] for at in range(0, len(ranked), per_step)]
        tail = [groups.pop()] if len(groups) > 1 and len(groups[-1]) < per_step else []
        groups = [groups[place] for place in self.rng.permutation(len(groups))] + tail
        indices = [[self._index.pop(position) for position in positions] for positions in packs]
        for group in groups:
            yield [indices[place] for place in group]

    def _costs(self, packs: list[list[int]]) -> np.ndarray:
        """Cost of each pack, in tokens; the packs' tokens are counted in the plan."""
        lengths = [self._length.pop(position) for positions in packs for position in positions]
        tokens = np.array(lengths, dtype=float)
        begins = np.concatenate([[0], np.cumsum([len(positions) for positions in packs])[:-1]])
        self.plan.num_tokens += int(tokens.sum())
        self.plan.num_packs += len(packs)
        return np.add.reduceat(tokens * (1 + tokens * self.settings.attention_cost), begins)


def check_frames(table: SampleTable, settings: PackSettings, stage: int = 0) -> None:
    """
    Args:
        stage: number of the stage whose samples they are, from 1.

    Raises:
        UsageError: one latent frame of a sample alone exceeds the budget.
    """
    limit, per_frame = settings.limit, table.per_frame(settings.patch)
    if settings.is_cropping or not (over := np.flatnonzero(per_frame > limit)).size:
        return
    is_of_stage = stage and limit < settings.budget
    raise UsageError(
        f"max_tokens of stage {stage}" if is_of_stage else "--tokens",
        f"{limit} are fewer than the {per_frame[over[0]]} that one frame of clip "
        f"{table.clip_ids[over[0]]} needs; {over.size} clips exceed the budget",
        "Raise it, encode at fewer pixels, or give --oversize window to show a part of such frames.",
    )


def plan_steps(plan: EpochPlan, settings: PackSettings, epoch: int) -> Iterator[Chosen]:
    """The steps of an epoch, every sample exactly as often as its weight says: once, if it has none.

    Shuffle within windows of shards (reads stay local), show what is over the limit in parts, fill packs,
    sort packs by cost within a few steps so that ranks of one step have equal work, shuffle these steps. The
    last step may have fewer packs than `packs_per_step`.

    Raises:
        UsageError: one latent frame of a sample alone exceeds the budget.
    """
    check_frames(plan.table, settings)
    return StepPlanner(plan, settings, epoch).steps()


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
