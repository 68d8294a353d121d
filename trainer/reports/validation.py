"""Validation at fixed noise levels, by shape class, with true captions and with shuffled ones."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manifests.cli import say
from trainer.config import FlowConfig
from trainer.data.loader import Pack, PackReader, offsets_of
from trainer.data.samples import Sample, Size
from trainer.data.windows import fitting
from trainer.model.dit import DiT
from trainer.model.flow import NoisyPack, add_noise
from trainer.reports.efficiency import CLASSES, shape_classes
from trainer.state.parallel import Ranks, reshard

SIGMAS = (0.3, 0.6, 0.9)
_SPARE = 4
"""Clips that every process reads, whose captions serve where a pack has no other."""


@dataclass(frozen=True)
class Validation:
    """What is validated on: this process's packs, and the same with another clip's caption each."""

    packs: list[Pack]
    others: list[Pack]


def validation_packs(reader: PackReader, samples: list[Sample], ranks: Ranks) -> Validation:
    """This process's share of the held-out samples in packs, read once.

    Samples over the budget are cut to their first latent frames that fit, and a frame that alone is over it
    to its middle. No more samples are taken than `config.validate_on`, the same ones in every run. All
    processes get equally many packs, some of them empty.
    """
    patch, budget = reader.config.model.patch, reader.config.tokens
    samples = sorted(samples, key=lambda sample: hashlib.sha256(sample.clip_id.encode()).digest())[
        : reader.config.validate_on
    ]
    packs: list[list[Sample]] = [[]]
    room = budget
    for sample in samples:
        shown = within(sample, patch, budget)
        if shown.tokens(patch) > room and packs[-1]:
            packs.append([])
            room = budget
        packs[-1].append(shown)
        room -= shown.tokens(patch)
    own = packs[ranks.data_rank :: ranks.data_size]
    read = [
        reader.read(pack, epoch=-1, is_for_validation=True)
        for pack in own + [[]] * (-(-len(packs) // ranks.data_size) - len(own))
    ]
    shares = ranks.sequence.size if ranks.sequence else 1
    if (bad := ranks.sum([sum(len(pack.corrupt) for pack in read) / shares])[0]) and ranks.is_first:
        say(
            f"fit: {bad:.0f} of {len(samples)} held-out clips cannot be read; validation goes on without them"
        )
    spare = reader.read(
        [within(sample, patch, budget) for sample in samples[:_SPARE]], epoch=-1, is_for_validation=True
    )
    return Validation(read, [with_other_texts(pack, texts_of(spare)) for pack in read])


def within(sample: Sample, patch: Size, budget: int) -> Sample:
    """What is shown of a sample in `budget` tokens: the beginning, and of a large frame the middle."""
    height, width = fitting(sample.latent_h, sample.latent_w, patch, budget)
    a_layer = -(-height // patch[1]) * -(-width // patch[2])
    return replace(
        sample,
        latent_t=min(sample.latent_t, max(1, budget // a_layer) * patch[0]),
        latent_h=height,
        latent_w=width,
        top=(sample.latent_h - height) // 2,
        left=(sample.latent_w - width) // 2,
    )


def texts_of(pack: Pack) -> list[Tensor]:
    """The caption [L, Dt] of each sample of a pack."""
    return [pack.text[int(a) : int(b)] for a, b in itertools.pairwise(pack.text_cu)]


def with_other_texts(pack: Pack, spare: list[Tensor]) -> Pack:
    """A pack in which each sample has another clip's caption, one that says something else.

    It is looked for from the next sample of the pack on, then in `spare`, for which no other process need be
    asked. Where all captions are the same, none: the null text.
    """
    own, found = texts_of(pack), list[Tensor]()
    for index, text in enumerate(own):
        candidates = itertools.chain(own[index + 1 :], own[:index], spare)
        null = text.new_zeros(1, text.shape[1])
        found.append(next((other for other in candidates if not _is_same(other, text)), null))
    if not found:
        return pack
    return replace(pack, text=torch.cat(found), text_cu=offsets_of(len(text) for text in found))


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one == other).all())


KEYS = ("weight", "clips", "loss", "shuffled", "baseline")
NAMES = (*CLASSES, "all")


@torch.no_grad()
def evaluate(
    model: DiT, validation: Validation, flow_config: FlowConfig, ranks: Ranks, is_bf16: bool = False
) -> dict[str, dict[str, float]]:
    """Mean squared velocity error per valid value, by shape class and over all.

    Every process must call, with its share.

    Returns:
        For each class that occurs: `clips`, how many are of it; `loss`, `shuffled` (with another sample's
            caption) and `baseline` (predicting the mean velocity, zero).
    """
    was_training = model.training
    model.eval()
    totals = {name: dict.fromkeys(KEYS, 0.0) for name in NAMES}
    share = 1 / len(SIGMAS) / (ranks.sequence.size if ranks.sequence else 1)
    for pack, swapped in zip(validation.packs, validation.others, strict=True):
        for sigma in SIGMAS:
            noisy, other = (
                add_noise(item, flow_config, salt=round(sigma * 100), sigma=sigma, group=ranks.sequence)
                for item in (pack, swapped)
            )
            here = noisy.on(ranks.device)
            said = {
                "loss": _velocity(model, here, ranks, is_bf16),
                "shuffled": _velocity(model, other.on(ranks.device), ranks, is_bf16),
            }
            errors = {key: here.error(value).cpu() for key, value in said.items()}
            errors["baseline"] = noisy.error(torch.zeros_like(noisy.tokens.x))
            for index, sample in enumerate(pack.samples):
                span = slice(int(noisy.local_cu[index]), int(noisy.local_cu[index + 1]))
                for name in (*shape_classes(sample), "all"):
                    totals[name]["clips"] += share
                    totals[name]["weight"] += float(noisy.tokens.weight[span].sum())
                    for key, value in errors.items():
                        totals[name][key] += float(value[span].sum())
    reshard(model)
    model.train(was_training)
    numbers = iter(ranks.sum([totals[name][key] for name in NAMES for key in KEYS]))
    summed = {name: {key: next(numbers) for key in KEYS} for name in NAMES}
    return {
        name: {
            "clips": round(value["clips"]),
            **{key: round(value[key] / value["weight"], 5) for key in KEYS[2:]},
        }
        for name, value in sorted(summed.items())
        if value["weight"]
    }


def _velocity(model: DiT, noisy: NoisyPack, ranks: Ranks, is_bf16: bool) -> torch.Tensor:
    with torch.autocast(ranks.device.type, torch.bfloat16, enabled=is_bf16):
        return model(*noisy.inputs())  # type: ignore[no-any-return]
