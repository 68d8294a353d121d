"""How full packs get, and how equal: the pack plan beside padding and first-fit, on one synthetic catalogue
of mixed images and videos.

python benchmarks/packing.py
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from trainer.config import FitConfig
from trainer.data.packs import EpochPlan, PackSettings, largest_fit, pack_cost, plan_epoch, plan_steps
from trainer.data.samples import Sample, SampleTable
from trainer.verbs.plan import describe

PATCH, WIDTH = (1, 2, 2), 2048


def catalogue(count: int, seed: int = 0) -> list[Sample]:
    """40 % images and 60 % videos of 0.5 to 16 s, native sizes from 256 to 768 px a side worth, seven
    aspects.
    """
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        side, aspect = rng.uniform(256, 768), rng.choice([9 / 16, 3 / 4, 1, 4 / 3, 16 / 9, 2.35, 0.42])
        height, width = side / aspect**0.5, side * aspect**0.5
        frames = 1 if rng.random() < 0.4 else int(np.exp(rng.uniform(np.log(8), np.log(256))))
        latent = (1 + -(-(frames - 1) // 4), max(1, round(height / 8)), max(1, round(width / 8)))
        found.append(Sample(f"{index:06d}", index // 200, *latent))
    return found


def first_fit(lengths: list[int], budget: int, num_open: int = 8) -> list[list[int]]:
    """A few open bins, each item into the first that has room; the fullest is closed when none has. The usual
    loader's packing.
    """
    bins: list[list[int]] = []
    open_bins: list[tuple[int, list[int]]] = []
    for index, length in enumerate(lengths):
        for position, (room, chosen) in enumerate(open_bins):
            if length <= room:
                open_bins[position] = (room - length, [*chosen, index])
                break
        else:
            if len(open_bins) == num_open:
                open_bins.sort(key=lambda item: item[0])
                bins.append(open_bins.pop(0)[1])
            open_bins.append((budget - length, [index]))
    return bins + [chosen for _, chosen in open_bins]


def padded_batches(samples: list[Sample], budget: int) -> tuple[float, float]:
    """(fill, share of latent frames kept): batches in stream order, each padded to its longest."""
    slots = tokens = 0
    batch: list[int] = []
    for count in [sample.tokens(PATCH) for sample in samples]:
        if batch and max([*batch, count]) * (len(batch) + 1) > budget:
            slots, tokens, batch = slots + max(batch) * len(batch), tokens + sum(batch), []
        batch.append(count)
    return (tokens + sum(batch)) / (slots + max(batch) * len(batch)), 1.0


def same_shape_batches(samples: list[Sample], budget: int) -> tuple[float, float]:
    """Batches of one exact shape, of as many samples as fit; what is left of a shape at the end of the epoch
    makes a batch of its own.
    """
    shapes = Counter(
        (sample.latent_t, sample.latent_h, sample.latent_w, sample.tokens(PATCH)) for sample in samples
    )
    slots = tokens = 0
    for (_, _, _, each), count in shapes.items():
        room = max(1, budget // each)
        slots, tokens = slots + -(-count // room) * budget, tokens + count * each
    return tokens / slots, 1.0


def buckets(samples: list[Sample], budget: int) -> tuple[float, float]:
    """Open-Sora's buckets: an aspect of its list, the largest resolution and number of frames that the clip
    reaches, resized and cropped to it; full batches only.
    """
    aspects, sides, frames = (9 / 16, 3 / 4, 1.0, 4 / 3, 16 / 9), (256, 360, 512, 720), (1, 13, 26, 52, 102)
    found: Counter[tuple[int, int, int]] = Counter()
    latents = kept = 0
    for sample in samples:
        height, width, count = sample.latent_h * 8, sample.latent_w * 8, 1 + (sample.latent_t - 1) * 4
        aspect = min(aspects, key=lambda value: abs(np.log(value / (width / height))))
        side = max((value for value in sides if value * value <= height * width), default=sides[0])
        length = max(value for value in frames if value <= count)
        found[length, round(side / aspect**0.5), round(side * aspect**0.5)] += 1
        latents += count
        kept += length
    slots = tokens = 0
    for (length, height, width), count in found.items():
        each = Sample("", 0, 1 + -(-(length - 1) // 4), height // 8, width // 8).tokens(PATCH)
        room = max(1, budget // each)
        slots, tokens = slots + count // room * budget, tokens + count // room * room * each
    return tokens / slots, kept / latents


@dataclass(frozen=True)
class Figures:
    """Of one budget: fill and share of frames kept by way of packing, slowest of 64 ranks over the mean by
    way of dealing, and what the plan took.
    """

    fill: dict[str, float]
    kept: dict[str, float]
    pixels_kept: float
    slowest: dict[str, float]
    num_windows: int
    cpu_s: float


def figures(samples: list[Sample], budget: int) -> Figures:
    """Pack the catalogue in all ways."""
    table, settings = (
        SampleTable.of(samples),
        PackSettings(seed=0, budget=budget, packs_per_step=64, patch=PATCH, attention_cost=1 / (6 * WIDTH)),
    )
    fitting = [sample for sample in samples if sample.tokens(PATCH) <= budget]
    lengths = [sample.tokens(PATCH) for sample in fitting]
    begin = time.process_time()
    plan = plan_epoch(table, settings, 0)
    cpu_s = time.process_time() - begin
    told = describe(table, plan, replace(FitConfig(), tokens=budget, packs_per_step=64))
    fill, kept = {"plan": plan.fill}, {"plan": told["latent_frames_kept_this_epoch"]}
    for name, bins in (
        ("pool largest-fit", list(largest_fit(lengths, budget))),
        ("first-fit, 8 open", first_fit(lengths, budget)),
    ):
        fill[name] = sum(lengths) / (budget * len(bins))
    for name, way in (
        ("padded batches", padded_batches),
        ("same-shape batches", same_shape_batches),
        ("Open-Sora-style buckets", buckets),
    ):
        fill[name], kept[name] = way(fitting, budget)
    costs = [
        [pack_cost([item.tokens(PATCH) for item in pack], 1 / (6 * WIDTH)) for pack in plan.packs(step)]
        for step in plan.steps
        if len(step) == 64
    ]
    flat = np.random.default_rng(0).permutation(np.concatenate(costs)).reshape(-1, 64)
    slowest = {
        "plan": float(np.mean([max(step) / np.mean(step) for step in costs])),
        "packs dealt at random": float(np.mean(flat.max(1) / flat.mean(1))),
    }
    return Figures(fill, kept, told["pixels_kept"], slowest, len(plan.windows), cpu_s)


def told(values: dict[str, float], digits: int = 4) -> str:
    return " | ".join(f"{name} {value:.{digits}f}" for name, value in values.items())


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    samples = catalogue(20_000)
    print(f"{len(samples)} samples, {len({(s.latent_t, s.latent_h, s.latent_w) for s in samples})} shapes")
    for budget in (32_768, 65_536):
        found = figures(samples, budget)
        print(
            f"budget {budget}: planned in {found.cpu_s:.2f} CPU s ({found.cpu_s / len(samples) * 1e6:.1f} "
            f"us a sample), {found.num_windows} windows of samples over the budget"
        )
        print(f"  fill: {told(found.fill)}")
        print(f"  frames kept: {told(found.kept)}; pixels: plan {found.pixels_kept:.4f}")
        print(f"  slowest of 64 ranks over the mean: {told(found.slowest, 3)}")
    cpu_s, steps = million()
    print(f"1000000 samples planned in {cpu_s:.2f} CPU s, {steps} steps, a step at a time")


def million() -> tuple[float, int]:
    """CPU seconds to plan a million samples, a step at a time, and the steps."""
    small = SampleTable.of(catalogue(100_000))
    table = SampleTable(
        [f"{index}" for index in range(10 * len(small))],
        np.arange(10 * len(small)) // 200,
        *(np.tile(column, 10) for column in (small.latent_t, small.latent_h, small.latent_w)),
    )
    settings = PackSettings(
        seed=0, budget=65_536, packs_per_step=64, patch=PATCH, attention_cost=1 / (6 * WIDTH)
    )
    begin, plan, steps = time.process_time(), EpochPlan(table, 65_536), 0
    for step in plan_steps(plan, settings, 0):
        plan.forget(step)
        steps += 1
    return time.process_time() - begin, steps


if __name__ == "__main__":
    main()
