"""FLOPs of packs, efficiency of steps, and loss by shape class and noise band."""

from __future__ import annotations

import resource
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.config import FitConfig, ModelConfig
from trainer.data.loader import Pack
from trainer.data.packs import attention_cost_of, pack_cost
from trainer.data.samples import Sample
from trainer.model.flow import NoisyPack
from trainer.state.parallel import Ranks

CLASSES = ("image", "square", "wide", "tall", "short", "long")
"""A sample is of one class by shape, and a video of one more by length."""
BANDS = (0.0, 0.35, 0.7)
"""Where each band of noise levels begins; the last ends at 1."""
LONG_LATENTS = 8


def shape_classes(sample: Sample) -> tuple[str, ...]:
    """image; or square, wide or tall, and short or long."""
    if sample.latent_t == 1:
        return ("image",)
    ratio = sample.latent_w / sample.latent_h
    return (
        "wide" if ratio > 1.15 else "tall" if ratio < 0.87 else "square",
        "long" if sample.latent_t > LONG_LATENTS else "short",
    )


def forward_flops(config: ModelConfig, lengths: Sequence[int], text_lengths: Sequence[int]) -> float:
    """FLOPs of one forward pass over documents of these lengths, attention within documents only.

    Two for each multiply-add of every matrix product.
    """
    d, tokens, words = config.width, sum(lengths), sum(text_lengths)
    hidden = config.hidden_width
    values = config.latent_channels * config.patch[0] * config.patch[1] * config.patch[2]
    pairs = list(zip(lengths, text_lengths, strict=True))
    block = 4 * d * d + 3 * d * hidden
    if config.text == "joint":
        per_token, per_word = config.depth * block, config.depth * block
        attention = config.depth * 2 * d * sum((n + m) ** 2 for n, m in pairs)
    else:
        per_token, per_word = config.depth * (block + 2 * d * d), config.depth * 2 * d * d
        attention = config.depth * 2 * d * sum(n * n + n * m for n, m in pairs)
    per_token, per_word = per_token + 2 * values * d, per_word + config.text_width * d + d * d
    return 2.0 * (tokens * per_token + words * per_word + attention)


def peak_memory_bytes(device: torch.device) -> int:
    """The most this process has held: on the GPU where it has one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class LossTable:
    """Weighted error of a step by shape class and noise band, summed over tokens.

    Attributes:
        total: error of all tokens.
        error, weight: [class, band] error, and the loss weight it is divided by.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self.error, self.weight = np.zeros((2, len(CLASSES), len(BANDS)))

    def add(self, noisy: NoisyPack, errors: list[float]) -> None:
        """Add a pack, given the weighted error of each of its samples here."""
        self.total += sum(errors)
        rows = zip(noisy.pack.samples, errors, noisy.weights, noisy.levels, strict=False)
        for sample, own, weight, level in rows:
            band = bisect_right(BANDS, level) - 1
            for name in shape_classes(sample):
                cell = CLASSES.index(name), band
                self.error[cell] += own
                self.weight[cell] += weight

    def reduce(self, ranks: Ranks) -> LossTable:
        """The sum of the tables of all processes."""
        whole = LossTable()
        whole.total, *cells = ranks.sum(
            [self.total, *self.error.ravel().tolist(), *self.weight.ravel().tolist()]
        )
        whole.error, whole.weight = np.reshape(cells, (2, *self.error.shape))
        return whole

    def means(self) -> dict[str, float]:
        """Mean loss per valid value of each cell that occurred, by `<class>/<start of the band>`."""
        return {
            f"{name}/{start:g}": round(float(self.error[row, band] / self.weight[row, band]), 5)
            for row, name in enumerate(CLASSES)
            for band, start in enumerate(BANDS)
            if self.weight[row, band] > 0
        }


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step on this process."""

    total_s: float
    stalled_s: float  # waiting for packs


@dataclass(frozen=True)
class Efficiency:
    """How well a step used the devices of a run; the names are those in `metrics.jsonl`."""

    fill: float  # share of the token budget that held tokens
    imbalance: float  # cost of the busiest process over the mean
    tokens_per_s: float
    stall_share: float  # share of the time in which processes waited for packs, mean
    tflops: float
    mfu: float | None  # share of the peak operations; None where the peak was not given


def step_efficiency(
    packs: list[Pack], num_tokens: float, time: StepTime, config: FitConfig, ranks: Ranks
) -> Efficiency:
    """Efficiency of one step; every process must call.

    Args:
        packs: of this process.
        num_tokens: of the step, over all processes.
    """
    lengths = [pack.cu.diff().tolist() for pack in packs]
    texts = [pack.text_cu.diff().tolist() for pack in packs]
    forward = sum(forward_flops(config.model, own, text) for own, text in zip(lengths, texts, strict=True))
    cost = sum(pack_cost(own, attention_cost_of(config)) for own in lengths)
    costs = ranks.gather(cost / ranks.num_sharing)
    stalled_s, flops = ranks.sum(
        [time.stalled_s, 3 * forward / ranks.num_sharing]
    )  # backward costs twice the forward
    seconds, peak = max(time.total_s, 1e-9), config.peak_tflops * 1e12 * ranks.size
    return Efficiency(
        fill=round(num_tokens / (config.tokens * config.packs_per_step), 4),
        imbalance=round(max(costs) * ranks.size / max(sum(costs), 1e-9), 4),
        tokens_per_s=round(num_tokens / seconds, 1),
        stall_share=round(stalled_s / ranks.size / seconds, 4),
        tflops=round(flops / seconds / 1e12, 5),
        mfu=round(flops / seconds / peak, 4) if peak else None,
    )
