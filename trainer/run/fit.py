"""A training run from its command to its exported model, exact to resume, on one process or many.

To resume, run the same command again, with as many processes as are at hand.

A step is one integer; what it reads, the noise it adds and the captions it draws follow from (seed, step),
and its packs are dealt to however many processes there are. Ctrl-C and SIGTERM finish the step in hand, save,
and end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from learning.processes import first_decides
from learning.stopping import Stop, stop_on_signals
from manifests.cli import say
from manifests.layout import Dataset
from manifests.runs.elsewhere import note_training
from manifests.runs.events import ingest_settings
from manifests.store.json_files import read_local_object
from manifests.store.reading import RangeCache
from trainer.config import FitConfig
from trainer.config_files import (
    Changes,
    check_same_run,
    note_changes,
)
from trainer.data.catalogue.catalog import Catalog, load_catalog, views_of
from trainer.data.catalogue.held_out import note_held_out, noted_held_out
from trainer.data.catalogue.phrases import phrases_of
from trainer.data.curriculum import Curriculum, stages_of
from trainer.data.loader import Loader, PackReader
from trainer.data.tars.streaming import StreamLoader, StreamReader, survey
from trainer.model.dit import count_parameters
from trainer.reports.memory import check_fits, kept_that_fit
from trainer.reports.run_record import RunRecord
from trainer.reports.sheets import Sheets, sheet_path
from trainer.reports.validation import Validation, validation_packs
from trainer.run.claim import claim, run_digest
from trainer.run.folder import CONFIG, Beginning, begun_anew_if_refused
from trainer.run.loop import Run, tell
from trainer.run.upkeep import steps_traced
from trainer.sampling.trained import RECORD
from trainer.state.adapters import merged
from trainer.state.beginning import begin_from, normalised_as, record_of
from trainer.state.checkpoint_files import TrainState, newest_sound
from trainer.state.checkpoints import Trained, load_checkpoint
from trainer.state.export import save_model, save_record
from trainer.state.mirror import Mirror
from trainer.state.optimizers import make_optimizers
from trainer.state.parallel import Ranks, build, check, full_state, join


def plan_stream(catalog: Catalog, config: FitConfig) -> Curriculum:
    """The steps of a run: a pure function of the manifest and the settings."""
    return Curriculum(stages_of(catalog.table, config, catalog.factors[0]))


@dataclass(frozen=True)
class Source:
    """What a run reads: settings, catalogue, validation packs, loader, and the origin of the data."""

    config: FitConfig
    catalog: Catalog
    validation: Validation
    loader: Loader | StreamLoader
    made_by: dict[str, Any]
    sheets: Sheets | None = None
    origin: dict[str, Any] = field(default_factory=dict)
    """Where it is from, for people who look at the run: the record's `dataset`, `view` and so on."""
    dataset: Dataset | None = None


def dataset_source(
    dataset: Dataset, view_name: str, config: FitConfig, out: Path, cache: RangeCache | None, ranks: Ranks
) -> Source:
    """A dataset, by its manifests: planned, each sample as often as its weight says, exact to resume."""
    views = views_of(dataset, view_name, config)
    is_begun = (out / CONFIG).exists()
    catalog = load_catalog(dataset, views, config, noted_held_out(out) if is_begun else ())
    catalog = _normalised(catalog, config, out)
    config = _sized(config, catalog)
    reader = PackReader(dataset, catalog, config, cache)
    made_by = {
        "columns": {name: str(column) for name, column in views[0].columns.items()},
        **ingest_settings(dataset, views[0].columns.values()),
        "phrases": phrases_of(dataset, views[0]),
    }
    loader = Loader(reader, plan_stream(catalog, config), ranks.data_rank, ranks.data_size)
    sheets = Sheets(dataset, views[0], catalog, reader, config, out, ranks)
    origin = {
        "dataset": dataset.address,
        **({"snapshot": dataset.at} if dataset.at else {}),
        "view": view_name,
        "view_digests": [view.digest for view in views],
        "columns": made_by["columns"],
    }
    held_out = validation_packs(reader, catalog.held_out, ranks)
    return Source(config, catalog, held_out, loader, made_by, sheets, origin, dataset)


def _normalised(catalog: Catalog, config: FitConfig, out: Path) -> Catalog:
    """With the statistics that the run in the folder began with, also on more data, or the model it begins
    from.

    Raises:
        UsageError: the latents are of another VAE.
    """
    if (out / CONFIG).exists() and (out / RECORD).exists():
        return normalised_as(catalog, read_local_object(out / RECORD), str(out))
    return normalised_as(catalog, record_of(config.init), f"--init {config.init}") if config.init else catalog


def tars_source(urls: list[str], config: FitConfig, out: Path, ranks: Ranks) -> Source:
    """Plain tars without an index, streamed (trainer/data/tars/streaming.py)."""
    catalog, aside, made_by = survey(urls, config)
    catalog = _normalised(catalog, config, out)
    config = _sized(config, catalog)
    reader = StreamReader(catalog, config)
    held = [reader.hold(clip) for clip in aside]
    validation = validation_packs(reader, held, ranks)
    reader.let_go(held)
    return Source(
        config,
        catalog,
        validation,
        StreamLoader(urls, reader, ranks.data_rank, ranks.data_size),
        made_by,
        origin={"tars": urls},
    )


def _sized(config: FitConfig, catalog: Catalog) -> FitConfig:
    return replace(
        config,
        model=replace(config.model, latent_channels=catalog.latent_channels, text_width=catalog.text_width),
    )


def fit(
    dataset: Dataset,
    view_name: str,
    config: FitConfig,
    out: Path,
    cache: RangeCache | None = None,
    takes_new_data: bool = False,
) -> int:
    """`fit_until` on a dataset; SIGINT and SIGTERM become stop requests.

    Args:
        cache: where ranges of a dataset on an object store are kept.
    """
    with stop_on_signals() as stop:
        return fit_until(
            config,
            out,
            stop,
            lambda ranks: dataset_source(dataset, view_name, config, out, cache, ranks),
            takes_new_data,
        )


def fit_tars(urls: list[str], config: FitConfig, out: Path, takes_new_data: bool = False) -> int:
    """The same on plain tars."""
    with stop_on_signals() as stop:
        return fit_until(
            config, out, stop, lambda ranks: tars_source(urls, config, out, ranks), takes_new_data
        )


def fit_until(
    config: FitConfig,
    out: Path,
    stop: Stop,
    open_source: Callable[[Ranks], Source],
    takes_new_data: bool = False,
) -> int:
    """Train up to `config.steps` and export the model. Returns the number of steps done.

    Args:
        takes_new_data: where the data of the run is not what it was, its next epoch begins on what there is.

    Raises:
        UsageError: `out` holds a run with other settings, or the data does not fit the model.
        Interrupted: a stop was requested; the run has saved its checkpoint.
    """
    ranks = join(config.sequence_parallel, config.ring)
    check(config, ranks)
    steps_traced(config.profile)
    if config.checkpoints:
        Mirror(config.checkpoints, out, ranks).restore(lambda stored: check_same_run(stored, config))
    source = open_source(ranks)
    config, digest = source.config, run_digest(source.catalog, source.config)
    _check_device(config, ranks)
    config, lock, changes = claim(out, source.catalog, config, digest, takes_new_data)
    source = replace(source, config=config)
    try:
        if lock and source.dataset and not note_training(source.dataset, out):
            where = source.dataset.address
            say(f"fit: no note could be left in {where}: a takedown finds this run by `remove --runs {out}`")
        newest = newest_sound(out / "checkpoints", ranks)
        with begun_anew_if_refused(out, is_new=ranks.is_first and not newest) as beginning:
            return _trained(source, out, stop, ranks, newest, changes, beginning)
    finally:
        if lock:
            lock.release()


def _trained(
    source: Source,
    out: Path,
    stop: Stop,
    ranks: Ranks,
    newest: Path | None,
    changes: Changes,
    beginning: Beginning,
) -> int:
    """Train from the newest checkpoint, or from the beginning. Returns the number of steps done."""
    config = source.config
    keeps = kept_that_fit(config, ranks.size, ranks.device)
    # what a checkpoint holds is read straight into its place
    model = build(config, ranks, keeps=keeps, is_filled=not newest)
    emas: dict[float, nn.Module] = {
        decay: build(config, ranks, is_trained=False, is_filled=not newest)
        for decay in (config.ema_decay, *config.ema_more)
    }
    trained = Trained(model, emas, make_optimizers(model, config))
    state = TrainState(0, run_digest(source.catalog, config))
    if config.init and not newest:
        fresh = begin_from([model, *emas.values()], config.init, config.init_fresh)
        tell(ranks, f"begun from {config.init}" + (f"; anew: {', '.join(fresh)}" if fresh else ""))
    if newest:
        state = _resumed(newest, trained, source, changes, ranks)
    if isinstance(source.loader, Loader) and isinstance(source.loader.plan, Curriculum):
        source.loader.plan.check(state.step, config.steps)
    if ranks.is_first:
        note_changes(out, state.step, changes)
        save_record(out, config, source.catalog, source.made_by)
        if config.plan_version > 2 and source.catalog.held_out:
            note_held_out(out, (sample.clip_id for sample in source.catalog.held_out))
    tell(ranks, _read_by(source, count_parameters(model), ranks))
    run = Run(config, out, ranks, trained, state, source.validation, source.sheets)
    beginning.done = lambda: run.done
    record = RunRecord(out, source.origin, state.step, ranks.size) if ranks.is_first else None
    try:
        before = run.validate(state.step) if state.step == 0 else None
        try:
            step = run.loop(source.loader, stop)
        finally:
            # one may sample from a run that was stopped by hand; where a machine is taken away there is
            # no time, and `rushes export-model` makes the model from the checkpoint
            if run.is_sound and not any(ranks.sum([float(stop.signal_name == "SIGTERM")])):
                _export(out, trained, config, ranks, run.done)
        after = run.validate(step)
        if step > state.step or not first_decides(sheet_path(out, step).exists):
            run.show(step, stop)
    finally:
        run.log.close()
        if record:
            record.end(run.done)
    if before:
        _tell_validation(before, after, ranks)
    return step


def _read_by(source: Source, parameters: int, ranks: Ranks) -> str:
    samples = (
        f"{len(source.catalog.table)} samples, {len(source.catalog.held_out)} held out"
        if len(source.catalog.table)
        else "tars without an index"
    )
    return (
        f"{parameters / 1e6:.2f} M parameters, {samples}, {source.config.tokens} tokens a pack, "
        f"{ranks.size} processes"
    )


def _tell_validation(before: dict[str, Any], after: dict[str, Any], ranks: Ranks) -> None:
    tell(
        ranks,
        f"validation loss {before['all']['loss']:.4f} before, {after['all']['loss']:.4f} after; mean "
        f"velocity {after['all']['baseline']:.4f}; "
        f"with other captions {after['all']['shuffled'] / after['all']['loss'] - 1:+.2%}; on "
        f"{after['all']['clips']} held-out clips",
    )


def _resumed(newest: Path, trained: Trained, source: Source, changes: Changes, ranks: Ranks) -> TrainState:
    """Where the run stands by its newest checkpoint, which is loaded; the plan goes to that place.

    On other data than the checkpoint's, the next epoch of the plan begins there.
    """
    digest = run_digest(source.catalog, source.config)
    state = load_checkpoint(newest, trained, ranks)
    tell(ranks, f"resumed after step {state.step} from {newest}")
    if state.digest != digest:
        changes["data"] = (state.digest, digest)
    if state.plan_mark and isinstance(source.loader, Loader) and isinstance(source.loader.plan, Curriculum):
        plan, mark = source.loader.plan, state.plan_mark
        if state.digest != digest:
            mark = plan.next_epoch_at(state.step, mark)
            tell(ranks, f"other data than before: epoch {mark[1]} begins on it at step {state.step}")
        plan.seek(*mark)
    return replace(state, digest=digest)


def _export(out: Path, trained: Trained, config: FitConfig, ranks: Ranks, step: int) -> None:
    """Write each average as a model to sample from: the first as `model`, others as `model-ema<decay>`."""
    for decay, ema in trained.emas.items():
        weights = full_state(ema, ranks)
        if ranks.is_first:
            weights = merged(weights, config.lora_rank)
            folder = out / ("model" if decay == config.ema_decay else f"model-ema{decay:g}")
            save_model(folder, weights, out, step=step)
        ranks.wait()  # on the host: a device would not wait so long


def _check_device(config: FitConfig, ranks: Ranks) -> None:
    if ranks.device.type == "cuda":
        check_fits(config, ranks.size, torch.cuda.get_device_properties(ranks.device).total_memory, 1.0)
