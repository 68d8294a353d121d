"""`rushes plan-training`: what a run would do with a dataset, from the manifest alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro

from manifests import cli
from manifests.cli.ranges import COUNT_OR_NONE, POSITIVE, WORKERS, Ranges
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.store import storage
from trainer.config import FitConfig
from trainer.data.curriculum import EPOCHS_OF_A_STAGE, Stage
from trainer.data.packs import EpochPlan, attention_cost_of, pack_cost, plan_epoch, rank_packs
from trainer.data.samples import SampleTable
from trainer.options import Preset, RunOptions

WORLD_SIZES = (1, 2, 4, 8, 16, 32, 64)


def imbalance(plan: EpochPlan, config: FitConfig, world_size: int) -> float | None:
    """Cost of the slowest process over the mean, mean over full steps; None where no step is full."""
    per_step, patch, attention_cost = config.packs_per_step, config.model.patch, attention_cost_of(config)
    ratios = []
    for step in plan.steps:
        packs = plan.packs(step)
        dealt = [rank_packs(packs, rank, world_size, per_step) for rank in range(world_size)]
        costs = [
            sum(pack_cost([item.tokens(patch) for item in pack], attention_cost) for pack in own)
            for own in dealt
        ]
        if len(step) == per_step:
            ratios.append(max(costs) / float(np.mean(costs)))
    return round(float(np.mean(ratios)), 3) if ratios else None


def describe(table: SampleTable, plan: EpochPlan, config: FitConfig) -> dict[str, Any]:
    """Counts, fill, what is kept, balance and operations (forward and backward) of one epoch."""
    import torch

    from trainer.model.dit import DiT, count_parameters
    from trainer.reports.efficiency import forward_flops

    patch = config.model.patch
    tokens = -(-table.latent_t // patch[0]) * table.per_frame(patch)
    shown = np.array([index for step in plan.steps for pack in step for index in pack], dtype=np.int64)
    frames = np.zeros(
        len(table), dtype=np.int64
    )  # latent frames of each sample that the epoch shows, and cells
    cells = np.zeros(len(table), dtype=np.int64)
    np.add.at(frames, shown % len(table), table.latent_t[shown % len(table)])
    np.add.at(
        cells, shown % len(table), (table.latent_t * table.latent_h * table.latent_w)[shown % len(table)]
    )
    num_cropped = 0
    for index, cut in plan.windows.items():
        at = index % len(table)
        frames[at] += cut.length - table.latent_t[at]
        cells[at] += (
            cut.length * cut.height * cut.width - table.latent_t[at] * table.latent_h[at] * table.latent_w[at]
        )
        num_cropped += (cut.height, cut.width) != (int(table.latent_h[at]), int(table.latent_w[at]))
    is_shown = frames > 0
    whole_frames, whole_cells = (
        int(table.latent_t[is_shown].sum()),
        int((table.latent_t * table.latent_h * table.latent_w)[is_shown].sum()),
    )
    flops = 3 * sum(
        forward_flops(config.model, lengths := [item.tokens(patch) for item in pack], [64] * len(lengths))
        for step in plan.steps
        for pack in plan.packs(step)
    )
    with torch.device("meta"):
        parameters = count_parameters(DiT(config.model))
    return {
        "parameters": parameters,
        "samples": len(table),
        "images": int((table.latent_t == 1).sum()),
        "shapes": len(
            set(zip(table.latent_t.tolist(), table.latent_h.tolist(), table.latent_w.tolist(), strict=True))
        ),
        "tokens": int(tokens.sum()),
        "packs": plan.num_packs,
        "steps_per_epoch": len(plan.steps),
        "fill": round(plan.fill, 4),
        "showings": len(shown),
        "windowed": len(plan.windows),
        "cropped": num_cropped,
        "latent_frames_kept_this_epoch": round(
            int(np.minimum(frames, table.latent_t)[is_shown].sum()) / max(1, whole_frames), 4
        ),
        "pixels_kept": round(
            int(np.minimum(cells, table.latent_t * table.latent_h * table.latent_w)[is_shown].sum())
            / max(1, whole_cells),
            4,
        ),
        "imbalance": {
            size: imbalance(plan, config, size) for size in WORLD_SIZES if config.packs_per_step % size == 0
        },
        "gflops_per_token": round(flops / 1e9 / max(1, plan.num_tokens), 4),
        "pflops_per_epoch": float(f"{flops / 1e15:.6g}"),
    }


@dataclass(frozen=True, kw_only=True)
class Plan(RunOptions):
    """Estimate fill, balance, steps and time of an epoch without reading any latents.

    Example: rushes plan-training xl --data DATASET --packs-per-step 64 --gpus 64 --tflops 400
    """

    essential: ClassVar[tuple[str, ...]] = (
        *(
            "data",
            "view",
            "tokens",
            "packs_per_step",
            "mix",
            "balance",
            "stages",
            "set",
            "gpus",
            "tflops",
            "json",
        ),
    )
    ranges: ClassVar[Ranges] = {"gpus": COUNT_OR_NONE, "tflops": POSITIVE}

    gpus: int = 0
    """Devices to estimate time for; 0: no estimate."""
    tflops: float = 400.0
    """What one device does in earnest (peak times the utilisation you expect), for the estimate."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        from trainer.data.catalogue.catalog import load_catalog, views_of
        from trainer.data.curriculum import stages_of

        if not self.data:
            raise UsageError("--data", "is needed", "Give the dataset to plan for.")
        config, dataset = self.config(), Dataset(self.data)
        catalog = load_catalog(dataset, views_of(dataset, self.view, config), config)
        stages = stages_of(catalog.table, config, catalog.factors[0])
        for number, stage in enumerate(stages):
            self._tell(number, len(stages), stage, config)
        return cli.DONE

    def _tell(self, number: int, count: int, stage: Stage, config: FitConfig) -> None:
        """What one stage of the run does."""
        plan = plan_epoch(stage.table, stage.settings, number * EPOCHS_OF_A_STAGE)
        told = {
            **describe(stage.table, plan, config),
            "samples_left_out": stage.left_out,
            "first_step": stage.first,
        }
        if self.gpus:
            hours = told["pflops_per_epoch"] * 1e3 / (self.tflops * self.gpus) / 3600
            told["hours_per_epoch"] = float(f"{hours:.4g}")
        if self.json:
            cli.print_json(told)
            return
        title = "plan of an epoch" + (f", stage {number + 1} of {count}" if count > 1 else "")
        cli.print_table(title, ["", ""], [[name.replace("_", " "), value] for name, value in told.items()])
        fullest = max(
            (pack for step in plan.steps for pack in plan.packs(step)),
            key=lambda pack: len({_shape(item) for item in pack}),
        )
        held = sorted({_shape(item) for item in fullest})
        shapes = ", ".join("x".join(map(str, shape)) for shape in held)
        print(
            f"the most varied pack holds {len(fullest)} samples of {len(held)} distinct latent shapes: "
            f"{shapes}"
        )


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Time attention and the rest on this device, as a run uses it: for `fit --measured FILE`.

    Example: rushes measure xl --tokens 32768 --out h100.json
    """

    ranges: ClassVar[Ranges] = {"tokens": (256, 1 << 24, True), "threads": WORKERS}

    preset: Annotated[Preset, tyro.conf.Positional] = "tiny"
    """Named size."""
    tokens: int = 4096
    """Tokens of a pack."""
    threads: int = 2
    """CPU threads."""
    out: Path | None = None
    """File to write what was found into; the terminal shows it anyway."""
    overwrite: bool = False
    """Replace the file."""

    def run(self) -> int:
        import torch

        from trainer.presets import preset
        from trainer.reports.measured import measure

        if self.out:
            cli.check_new(self.out, is_overwriting=self.overwrite)
        torch.set_num_threads(self.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        found = asdict(measure(preset(self.preset), device, self.tokens))
        if self.out:
            storage.write_local(self.out, json.dumps(found, indent=1).encode())
        cli.print_json(found)
        return cli.DONE


def _shape(item: Any) -> tuple[int, int, int]:
    return item.latent_t, item.latent_h, item.latent_w
