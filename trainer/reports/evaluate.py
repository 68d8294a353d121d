"""Validation at fixed noise levels, by shape class, with true captions and with shuffled ones."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import torch

from manifests.cli import say
from trainer.config import FlowConfig
from trainer.data.loader import Pack, PackReader
from trainer.data.samples import Sample
from trainer.model.dit import DiT
from trainer.model.flow import NoisyPack, add_noise
from trainer.reports.efficiency import CLASSES, shape_classes
from trainer.state.parallel import Ranks, reshard

SIGMAS = (0.3, 0.6, 0.9)


def validation_packs(reader: PackReader, samples: list[Sample], ranks: Ranks) -> list[Pack]:
    """This process's share of the held-out samples in packs, read once.

    Samples over the budget are cut to their first latent frames that fit.

    No more samples are taken than `config.validate_on`, the same ones in every run. All processes get equally
    many packs, some of them empty.
    """
    patch, budget = reader.config.model.patch, reader.config.tokens
    samples = sorted(samples, key=lambda sample: hashlib.sha256(sample.clip_id.encode()).digest())[
        : reader.config.validate_on
    ]
    packs: list[list[Sample]] = [[]]
    room = budget
    for sample in samples:
        per_frame = sample.tokens(patch) // sample.latent_t
        fitting = Sample(
            sample.clip_id,
            sample.shard,
            min(sample.latent_t, max(1, budget // per_frame)),
            sample.latent_h,
            sample.latent_w,
            view=sample.view,
        )
        if fitting.tokens(patch) > room and packs[-1]:
            packs.append([])
            room = budget
        packs[-1].append(fitting)
        room -= fitting.tokens(patch)
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
    return read


def with_other_texts(packs: list[Pack]) -> list[Pack]:
    """Each sample gets the text of the one before it, over all packs in a row."""
    spans = [pack.text[int(a) : int(b)] for pack in packs for a, b in itertools.pairwise(pack.text_cu)]
    rolled, found = iter(spans[-1:] + spans[:-1]), []
    for pack in packs:
        own = list(itertools.islice(rolled, len(pack.samples)))
        lengths = torch.tensor([0, *(len(span) for span in own)])
        found.append(replace(pack, text=torch.cat(own), text_cu=lengths.cumsum(0)) if own else pack)
    return found


KEYS = ("weight", "loss", "shuffled", "baseline")
NAMES = (*CLASSES, "all")


@torch.no_grad()
def evaluate(
    model: DiT, packs: list[Pack], flow_config: FlowConfig, ranks: Ranks, is_bf16: bool = False
) -> dict[str, dict[str, float]]:
    """Mean squared velocity error per valid value, by shape class and over all.

    Every process must call, with its share of the packs.

    Returns:
        For each class that occurs: `loss`, `shuffled` (with another sample's caption) and `baseline`
            (predicting the mean velocity, zero).
    """
    was_training = model.training
    model.eval()
    totals = {name: dict.fromkeys(KEYS, 0.0) for name in NAMES}
    for pack, swapped in zip(packs, with_other_texts(packs), strict=True):
        for sigma in SIGMAS:
            noisy, other = (
                add_noise(item, flow_config, salt=round(sigma * 100), sigma=sigma, group=ranks.sequence)
                for item in (pack, swapped)
            )
            said = {
                "loss": _velocity(model, noisy, ranks, is_bf16),
                "shuffled": _velocity(model, other, ranks, is_bf16),
            }
            errors = {key: noisy.error(value).cpu() for key, value in said.items()} | {
                "baseline": noisy.error(torch.zeros_like(noisy.tokens.x))
            }
            for index, sample in enumerate(pack.samples):
                span = slice(int(noisy.local_cu[index]), int(noisy.local_cu[index + 1]))
                for name in (*shape_classes(sample), "all"):
                    totals[name]["weight"] += float(noisy.tokens.weight[span].sum())
                    for key, value in errors.items():
                        totals[name][key] += float(value[span].sum())
    reshard(model)
    model.train(was_training)
    numbers = iter(ranks.sum([totals[name][key] for name in NAMES for key in KEYS]))
    summed = {name: {key: next(numbers) for key in KEYS} for name in NAMES}
    return {
        name: {key: round(value[key] / value["weight"], 5) for key in KEYS[1:]}
        for name, value in sorted(summed.items())
        if value["weight"]
    }


def _velocity(model: DiT, noisy: NoisyPack, ranks: Ranks, is_bf16: bool) -> torch.Tensor:
    with torch.autocast(ranks.device.type, torch.bfloat16, enabled=is_bf16):
        return model(*(value.to(ranks.device) for value in noisy.inputs()))  # type: ignore[no-any-return]
