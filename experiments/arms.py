"""Arms of an experiment: small models trained alike but for one thing, then asked the same questions."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from experiments.films import TEXT_ENCODER, TRAINED, Draw, clips, code_digest
from learning.stopping import Stop
from learning.weights import write_weights
from manifests.cli import say
from manifests.fingerprint import canonical_json
from trainer.config import FitConfig, FlowConfig, ModelConfig
from trainer.data.loader import Pack
from trainer.data.packs import pack_settings, plan_epoch
from trainer.data.samples import SampleTable
from trainer.data.tars.clip import StreamedClip
from trainer.data.tars.streaming import StreamReader, catalog_of
from trainer.model.dit import DiT
from trainer.model.flow import add_noise
from trainer.run.step import train_step, update_ema
from trainer.sampling.trained import TrainedModel
from trainer.state.optimizers import lr_at, make_optimizers
from trainer.state.parallel import fill, join
from vae.checkpoint import load_vae
from vae.folder import weights_digest
from world.film import SIZES_PX


@dataclass(frozen=True)
class Budget:
    """What every arm of an experiment gets."""

    films: int = 5000
    """Clips to train on."""
    stills: float = 0.5
    """Share of them that are images."""
    scale: float = 0.5
    """Of the world's picture sizes."""
    steps: int = 600
    """Optimizer steps."""
    tokens: int = 2048
    """Tokens a step."""
    lr: float = 1.2e-3
    width: int = 192
    depth: int = 6
    compile: bool = True
    seed: int = 0
    prompts: int = 160
    """Questions to each arm."""
    vae: str = "vae-tiny-2"
    work: Path = Path("demo/experiments")
    """Where encoded films and trained arms are kept, so that experiments share them."""
    out: Path = Path("demo/experiments")
    """Folder of the plot."""


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        captions: the kind that is read.
        is_cropped: trained on the middle squares of the films.
        stills: None for the budget's share of images; 0 for videos alone.
        positions: "3d", or "raster" for the place of a token in its sequence alone.
        steps: None for the budget's.
    """

    name: str
    captions: str = "dense"
    is_cropped: bool = False
    stills: float | None = None
    positions: str = "3d"
    steps: int | None = None


class RasterDiT(DiT):
    """The same model with one position a token: its place in the order of time, rows and columns."""

    def positions(self, coords: torch.Tensor, cu: torch.Tensor) -> torch.Tensor:
        lengths = cu.diff()
        place = torch.arange(len(coords), device=coords.device) - cu[:-1].repeat_interleave(lengths)
        return place[:, None].float().expand(-1, 3)


def trained(arm: Arm, budget: Budget) -> TrainedModel:
    """The arm's average weights after its steps, trained here or read from `budget.work`."""
    config = _config(arm, budget)
    draw = _draw(arm, budget)
    path = budget.work / f"arm-{_digest(arm, budget, config)}.safetensors"
    vae = load_vae(budget.vae)
    data = clips(draw, TRAINED, SIZES_PX, vae, budget.work)
    catalog = catalog_of(data, "")
    model_config = replace(
        config.model, latent_channels=catalog.latent_channels, text_width=catalog.text_width
    )
    config = replace(config, model=model_config)
    model = (RasterDiT if arm.positions == "raster" else DiT)(config.model)
    if path.exists():
        model.load_state_dict(load_file(path))
    else:
        model = _train(model, data, config, arm.name)
        budget.work.mkdir(parents=True, exist_ok=True)
        write_weights(model.state_dict(), path)
    record: dict[str, Any] = {"text_encoder": TEXT_ENCODER, "text_model": "", "vae": budget.vae}
    mean, std = torch.tensor(catalog.mean), torch.tensor(catalog.std).clamp_min(1e-4)
    model.eval().requires_grad_(False)
    return TrainedModel(model, config.flow, mean, std, record, arm.name)


def _config(arm: Arm, budget: Budget) -> FitConfig:
    return FitConfig(
        model=ModelConfig(width=budget.width, depth=budget.depth, num_heads=budget.width // 64),
        flow=FlowConfig(condition={"none": 1.0}),
        tokens=budget.tokens,
        steps=arm.steps or budget.steps,
        lr=budget.lr,
        schedule="flat-cosine",
        warmup_steps=min(40, (arm.steps or budget.steps) // 5),
        ema_decay=0.99,
        captions={arm.captions: 1.0},
        seed=budget.seed,
        is_bf16=True,
        is_compiled=budget.compile,
    )


def _draw(arm: Arm, budget: Budget) -> Draw:
    stills = budget.stills if arm.stills is None else arm.stills
    return Draw(budget.films, budget.scale, stills, arm.is_cropped, budget.seed)


def _digest(arm: Arm, budget: Budget, config: FitConfig) -> str:
    own = asdict(arm) | {"name": "", "steps": config.steps}
    every = [own, asdict(config), asdict(_draw(arm, budget)), weights_digest(budget.vae), code_digest()]
    return hashlib.sha256(canonical_json(every).encode()).hexdigest()[:10]


def _train(model: DiT, data: Sequence[StreamedClip], config: FitConfig, name: str) -> DiT:
    """Train by the project's own step; returns the average of the weights."""
    fill(model, config.seed)
    ranks, stop, ema = join(), Stop(), copy.deepcopy(model)
    if config.is_compiled:
        for block in model.blocks:
            block.compile(dynamic=True)
    model.to(ranks.device).train()
    ema.to(ranks.device)
    optimizers, begin = make_optimizers(model, config), time.monotonic()
    for number, pack in zip(range(config.steps), _packs(data, config), strict=False):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr_at(number, config)
        noisy = add_noise(pack, config.flow, salt=number)
        result = train_step(model, [noisy], config, ranks, stop)
        if result is None:
            raise KeyboardInterrupt
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_ema(ema, model, config.ema_decay, number)
        if (number + 1) % 50 == 0:
            took_s = time.monotonic() - begin
            left_s = took_s / (number + 1) * (config.steps - number - 1)
            say(f"{name}: step {number + 1} of {config.steps}, loss {result.loss:.3f}, {left_s:.0f} s left")
    return ema.cpu()


def _packs(data: Sequence[StreamedClip], config: FitConfig) -> Iterator[Pack]:
    """Packs without end, each clip once an epoch."""
    reader = StreamReader(catalog_of(list(data), ""), config)
    table, epoch = SampleTable.of([reader.hold(clip) for clip in data]), 0
    while True:
        plan = plan_epoch(table, pack_settings(config), epoch)
        for step in plan.steps:
            for samples in plan.packs(step):
                yield reader.read(samples, epoch)
        epoch += 1
