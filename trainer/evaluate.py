"""Validation at fixed noise levels and fixed noise, by shape class, with the true captions and with shuffled ones."""

from __future__ import annotations

import itertools
from collections import defaultdict

import torch

from trainer.dit import DiT
from trainer.efficiency import shape_classes
from trainer.flow import NoisyPack
from trainer.loader import Pack, PackReader
from trainer.samples import Sample

SIGMAS = (0.3, 0.6, 0.9)


def validation_packs(reader: PackReader, samples: list[Sample], budget: int) -> list[Pack]:
    """Held-out samples in packs, read once; those over the budget are cut to their first latents that fit."""
    patch = reader.config.model.patch
    packs: list[list[Sample]] = [[]]
    room = budget
    for sample in samples:
        per_frame = sample.tokens(patch) // sample.latent_t
        fitting = Sample(
            sample.clip_id, sample.shard, min(sample.latent_t, max(1, budget // per_frame)), sample.latent_h, sample.latent_w, view=sample.view
        )
        if fitting.tokens(patch) > room and packs[-1]:
            packs.append([])
            room = budget
        packs[-1].append(fitting)
        room -= fitting.tokens(patch)
    return [reader.read(pack, epoch=-1) for pack in packs]


def with_shuffled_text(pack: Pack) -> Pack:
    """Each sample gets the text of the one before it."""
    spans = [pack.text[int(a) : int(b)] for a, b in itertools.pairwise(pack.text_cu)]
    rolled = spans[-1:] + spans[:-1]
    lengths = torch.tensor([0, *(len(span) for span in rolled)])
    return Pack(**{**vars(pack), "text": torch.cat(rolled), "text_cu": lengths.cumsum(0)})


@torch.no_grad()
def evaluate(model: DiT, packs: list[Pack], flow_config: object) -> dict[str, dict[str, float]]:
    """Mean squared velocity error per valid value, by shape class and over all.

    Returns:
        For each class: `loss`, `shuffled` (with another sample's caption) and `baseline` (predicting the mean velocity, zero).
    """
    was_training = model.training
    model.eval()
    totals: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for pack in packs:
        for sigma in SIGMAS:
            noisy = NoisyPack(pack, flow_config, salt=round(sigma * 100), sigma=sigma)  # type: ignore[arg-type]
            shuffled = with_shuffled_text(pack)
            errors = {
                "loss": noisy.error(model(noisy.x, noisy.sigma, noisy.known, pack.coords, pack.cu, pack.text, pack.text_cu)),
                "shuffled": noisy.error(model(noisy.x, noisy.sigma, noisy.known, pack.coords, pack.cu, shuffled.text, shuffled.text_cu)),
                "baseline": noisy.error(torch.zeros_like(noisy.x)),
            }
            for index, sample in enumerate(pack.samples):
                span = slice(int(pack.cu[index]), int(pack.cu[index + 1]))
                for name in (*shape_classes(sample), "all"):
                    totals[name]["weight"] += float(noisy.weight[span].sum())
                    for key, value in errors.items():
                        totals[name][key] += float(value[span].sum())
    model.train(was_training)
    return {name: {key: round(value[key] / value["weight"], 5) for key in ("loss", "shuffled", "baseline")} for name, value in sorted(totals.items())}
