"""What a step costs and where its loss lies: exact floating-point operations of packs, loss by shape class and noise band."""

from __future__ import annotations

import resource
from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.config import ModelConfig
from trainer.flow import NoisyPack
from trainer.samples import Sample

CLASSES = ("image", "square", "wide", "tall", "short", "long")
"""A sample is of one class by shape, and a video of one more by length."""
BANDS = (0.0, 0.35, 0.7, 1.0001)
LONG_LATENTS = 8


def shape_classes(sample: Sample) -> tuple[str, ...]:
    """image; or square, wide or tall, and short or long."""
    if sample.latent_t == 1:
        return ("image",)
    ratio = sample.latent_w / sample.latent_h
    return ("wide" if ratio > 1.15 else "tall" if ratio < 0.87 else "square", "long" if sample.latent_t > LONG_LATENTS else "short")


def forward_flops(config: ModelConfig, lengths: Sequence[int], text_lengths: Sequence[int]) -> float:
    """Floating-point operations of one forward pass over documents of these lengths: two for each multiply-add of every matrix product, attention within documents only."""
    d, tokens, words = config.width, sum(lengths), sum(text_lengths)
    hidden = 8 * d // 3 // 16 * 16
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
    """Sums of error and weight by shape class and noise band, addable over processes."""

    def __init__(self) -> None:
        self.numbers = [0.0] * (2 * len(CLASSES) * (len(BANDS) - 1))

    def add(self, noisy: NoisyPack, error: Tensor) -> None:
        """error: [n], the weighted error of each token of this process."""
        weight = noisy.weight.sum(1)
        for index, sample in enumerate(noisy.pack.samples):
            span = slice(int(noisy.offsets[index]), int(noisy.offsets[index + 1]))
            if span.start == span.stop:
                continue
            level = float(noisy.sigma[span].max())
            band = next(number for number in range(len(BANDS) - 1) if level < BANDS[number + 1])
            for name in shape_classes(sample):
                at = 2 * (CLASSES.index(name) * (len(BANDS) - 1) + band)
                self.numbers[at] += float(error[span].sum())
                self.numbers[at + 1] += float(weight[span].sum())

    def means(self, numbers: list[float]) -> dict[str, float]:
        """Mean loss per valid value, `<class>/<band from>`, of what occurred."""
        found = {}
        for row, name in enumerate(CLASSES):
            for band in range(len(BANDS) - 1):
                at = 2 * (row * (len(BANDS) - 1) + band)
                if numbers[at + 1] > 0:
                    found[f"{name}/{BANDS[band]:g}"] = round(numbers[at] / numbers[at + 1], 5)
        return found
