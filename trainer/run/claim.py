"""Whose run a folder is: whether what is asked for is that run, and which settings may have changed."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path

from learning import processes
from learning.loop.run_lock import RunLock
from manifests import cli
from manifests.errors import UsageError
from manifests.fingerprint import canonical_json
from trainer.config import LATER, RUN_ONLY, FitConfig, check_guard
from trainer.config_files import Changes, changes_between, load_config, save_config
from trainer.data.catalogue.catalog import Catalog
from trainer.run.folder import CONFIG, check_new
from trainer.sampling.trained import model_folder
from trainer.state.checkpoint_files import HAS_CHECKPOINTS, has_begun, has_lost, readable_states, sweep

_PLAN_FORMAT = 2
"""Goes up with every change after which the same settings give another plan; a run of another version is not
resumed."""


def run_digest(catalog: Catalog, config: FitConfig) -> str:
    """What a checkpoint must agree on to be resumed: data, order and noise.

    Not the number of steps or of processes.
    """
    settings = {
        key: value
        for key, value in asdict(config).items()
        if key not in RUN_ONLY and (key not in LATER or value != LATER[key])
    }
    text = f"{_PLAN_FORMAT}{catalog.digest}{canonical_json(settings)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def claim(
    out: Path, catalog: Catalog, config: FitConfig, digest: str, takes_new_data: bool
) -> tuple[FitConfig, RunLock | None, Changes]:
    """Write the resolved settings into the run folder, if it is this run's and no other process is at it.

    The first process looks and decides; every process must call.

    Returns:
        The settings, with the beginning that the run had; what the first process must hold on to; and the
        settings that were others before.

    Raises:
        UsageError: the folder holds another run; or another process is at it.
    """
    lock: RunLock | None = None

    def decided() -> tuple[FitConfig, Changes]:
        nonlocal lock
        check_new(out)
        cli.writable(out)
        lock = RunLock(out)
        try:
            sweep(out / "checkpoints")
            return _settled(out, catalog, config, digest, takes_new_data)
        except Exception:
            lock.release()
            raise

    now, changes = processes.first_decides(decided)
    return now, lock, changes


def _settled(
    out: Path, catalog: Catalog, config: FitConfig, digest: str, takes_new_data: bool
) -> tuple[FitConfig, Changes]:
    """The settings of the run in a folder, which they are written into, and those that were others before.

    Raises:
        UsageError: the folder holds another run.
    """
    saved, changes, kept = out / CONFIG, Changes(), None
    if saved.exists():
        before = load_config(saved)
        changes = changes_between(before, config)
        if run_digest(catalog, before) != digest:
            own = [
                f"{name} {old} is now {new}"
                for name, (old, new) in changes.items()
                if name.split(".")[0] not in RUN_ONLY
            ]
            raise UsageError(
                str(out),
                f"holds a run with other settings: {'; '.join(own)}"
                if own
                else "holds a run on other data (clips, captions or views differ)",
                "Give another --out, or the same settings to resume.",
            )
        known = readable_states(out / "checkpoints")[-1:]
        if any(state.digest != digest for state in known) and not takes_new_data:
            raise UsageError(
                str(out),
                "holds a run on other data: the dataset has grown or lost sources, or another view is named "
                "(clips, captions or views differ), tars are others or have another path; or another "
                "version planned it",
                "Give --new-data to begin its next epoch on what there is now, or the data as it was, or "
                "another --out.",
            )
        check_guard(config, changes)
        if has_begun(out / "checkpoints"):
            (out / HAS_CHECKPOINTS).touch()  # older versions left no mark
            config = _begun_as(before, config, out)
            changes = changes_between(before, config)
        else:
            _check_not_lost(out)
        if known and config.steps < known[0].step:  # nothing is trained, and the settings stay its own
            kept, changes = before, Changes()
    save_config(kept or config, saved)
    return config, changes


def _check_not_lost(out: Path) -> None:
    """Refuse to begin a run anew whose checkpoints were there and are gone.

    Raises:
        UsageError: they are.
    """
    if has_lost(out / "checkpoints"):
        raise UsageError(
            str(out / "checkpoints"),
            "is gone or empty, and the run had written checkpoints there",
            "Bring them back, or give another --out to begin anew.",
        )


def _begun_as(before: FitConfig, now: FitConfig, out: Path) -> FitConfig:
    """The settings with the beginning of a run that has trained already: no other has an effect.

    Raises:
        UsageError: another one is asked for.
    """
    for name in ("init", "init_fresh"):
        old, new = getattr(before, name), getattr(now, name)
        is_same = new == old or (name == "init" and old and _is_one(new, old))
        if new and not is_same:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{option} {new if isinstance(new, str) else ' '.join(new)}",
                f"comes too late: the run in {out} has begun"
                + (f" from {old if isinstance(old, str) else ' '.join(old)}" if old else " without it"),
                f"Leave {option} out to go on, or give another --out.",
            )
    return replace(now, init=before.init, init_fresh=before.init_fresh)


def _is_one(new: str, old: str) -> bool:
    """Whether two names are of one model: of a run, of its model, or under weights/."""
    try:
        return model_folder(Path(new)).resolve() == model_folder(Path(old)).resolve()
    except UsageError:  # one is gone by now, which does not matter to a run that has begun
        return Path(new).resolve() == Path(old).resolve()
