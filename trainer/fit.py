"""A training run from its command to its exported model, exact to resume, on one process or many. To resume, run the same command again, with as many processes as are
at hand.

A step is one integer; what it reads, the noise it adds and the captions it draws follow from (seed, step), and its packs are dealt to however many processes there are.
Ctrl-C and SIGTERM finish the step in hand, save, and end.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path

import torch

from manifests.errors import UsageError
from manifests.fingerprint import canonical_json
from manifests.layout import Dataset
from trainer.catalog import Catalog, load_catalog, views_of
from trainer.checkpoints import Trained, TrainState, list_checkpoints, load_checkpoint
from trainer.config import RUN_ONLY, FitConfig, load_config, save_config
from trainer.curriculum import Curriculum, stages_of
from trainer.dit import DiT, count_parameters
from trainer.evaluate import validation_packs
from trainer.export import save_model
from trainer.loader import Loader, PackReader
from trainer.loop import Run, tell
from trainer.parallel import Ranks, full_state, join, prepare
from trainer.stopping import Stop, stop_on_signals


def plan_stream(catalog: Catalog, config: FitConfig) -> Curriculum:
    """The steps of a run: a pure function of the manifest and the settings."""
    return Curriculum(stages_of(catalog.table, config, catalog.factors[0]))


def run_digest(catalog: Catalog, config: FitConfig) -> str:
    """What a checkpoint must agree on to be resumed: the data and all that decides the order and the noise; not the number of steps or of processes."""
    settings = {key: value for key, value in asdict(config).items() if key not in RUN_ONLY}
    return hashlib.sha256((catalog.digest + canonical_json(settings)).encode()).hexdigest()[:16]


def fit(dataset: Dataset, view_name: str, config: FitConfig, out: Path) -> int:
    """`fit_until` with SIGINT and SIGTERM turned into a wish to stop, from the first line to the last."""
    with stop_on_signals() as stop:
        return fit_until(dataset, view_name, config, out, stop)


def fit_until(dataset: Dataset, view_name: str, config: FitConfig, out: Path, stop: Stop) -> int:
    """Train up to `config.steps` and export the model. Returns the number of steps done.

    Raises:
        UsageError: `out` holds a run with other settings, or the data does not fit the model.
        Interrupted: `stop` was wished for; the run has saved itself.
    """
    ranks, views = join(), views_of(dataset, view_name, config)
    catalog = load_catalog(dataset, views, config)
    config = replace(config, model=replace(config.model, latent_channels=catalog.latent_channels, text_width=catalog.text_width))
    digest = run_digest(catalog, config)
    _claim(out, catalog, config, digest, ranks)
    torch.manual_seed(config.seed)
    model = DiT(config.model)  # the same on every process, then sharded
    num_parameters = count_parameters(model)
    ema = DiT(config.model)
    ema.load_state_dict(model.state_dict())
    model, ema = prepare(model, config, ranks), prepare(ema.requires_grad_(False), replace(config, is_checkpointed=False, is_compiled=False), ranks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    trained, state = Trained(model, ema, optimizer), TrainState(0, digest)
    if checkpoints := list_checkpoints(out / "checkpoints"):
        state = load_checkpoint(checkpoints[-1], trained, digest, ranks)
        tell(ranks, f"resumed after step {state.step} from {checkpoints[-1]}")
    reader = PackReader(dataset, catalog, config)
    validation = validation_packs(reader, catalog.held_out, config.tokens) if ranks.is_first else []
    tell(
        ranks,
        f"{num_parameters / 1e6:.2f} M parameters, {len(catalog.table)} samples, {len(catalog.held_out)} held out, {config.tokens} tokens a pack, "
        f"{ranks.size} processes",
    )
    run = Run(config, out, ranks, trained, state, validation)
    before = run.validate(state.step) if state.step == 0 else None
    loader = Loader(reader, plan_stream(catalog, config), ranks.rank, ranks.size)
    try:
        step = run.loop(loader, stop)
    finally:
        weights = full_state(ema) if run.is_sound else {}
        if ranks.is_first and weights:
            save_model(out / "model", weights, config, catalog, views[0], dataset)  # one may sample from a run that was stopped
        run.log.close()
    after = run.validate(step)
    if before and after:
        tell(
            ranks,
            f"validation loss {before['all']['loss']:.4f} before, {after['all']['loss']:.4f} after; mean velocity {after['all']['baseline']:.4f}",
        )
    return step


def _claim(out: Path, catalog: Catalog, config: FitConfig, digest: str, ranks: Ranks) -> None:
    """Write the resolved settings into the run folder, if it is this run's."""
    saved = out / "config.json"
    if saved.exists() and run_digest(catalog, load_config(saved)) != digest:
        raise UsageError(str(out), "holds a run with other settings or other data", "Give another --out, or the same settings to resume.")
    ranks.wait()
    if ranks.is_first:
        out.mkdir(parents=True, exist_ok=True)
        save_config(config, saved)
    ranks.wait()
