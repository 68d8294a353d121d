"""The folder of a run: of one run and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from manifests.errors import UsageError
from trainer.state.checkpoint_files import has_begun

CONFIG = "config.json"
_OWN = {
    *(CONFIG, "model.json", "run.json", "held-out.json"),
    *("metrics.jsonl", "validation.jsonl", "consumed.jsonl", "changes.jsonl"),
    *("checkpoints", "model", "samples", "tensorboard", "profile"),
}
"""What a run that was refused before its first step may have left."""
_LOGS = (".log", ".txt", ".out", ".err")
"""What a shell or a scheduler writes beside."""


def _is_own(name: str) -> bool:
    # logs of each process after the first, and models of other averages
    return name in _OWN or fnmatch(name, "consumed-*.jsonl") or fnmatch(name, "model-ema*")


def check_new(out: Path) -> None:
    """Refuse to begin a run among other files: a folder with a run in it is no footage and no dataset.

    Raises:
        UsageError: the folder holds something else, and no run; or a run without its settings.
    """
    if not out.is_dir() or (out / CONFIG).exists():
        return
    others = sorted(
        path.name
        for path in out.iterdir()
        if not path.name.startswith(".") and not _is_own(path.name) and path.suffix not in _LOGS
    )
    if not others and has_begun(out / "checkpoints"):
        raise UsageError(
            str(out / CONFIG),
            "is gone from the folder of a run",
            "Bring it back (copies of --checkpoints have it in `run`), or give another --out.",
        )
    if others:
        is_dataset = (out / "dataset.json").exists()
        raise UsageError(
            str(out),
            "is a dataset" if is_dataset else f"holds other files ({', '.join(others[:3])})",
            f"Name a folder of its own, such as {out / 'training' / 'NAME' if is_dataset else out / 'run'}.",
        )


class Beginning:
    """A run that may have taken no step yet."""

    def __init__(self) -> None:
        self.done: Callable[[], int] = lambda: 0


@contextlib.contextmanager
def begun_anew_if_refused(out: Path, is_new: bool) -> Iterator[Beginning]:
    """Around a run: where the settings of a new one let no step be taken, others may be tried there."""
    beginning = Beginning()
    try:
        yield beginning
    except UsageError:
        if is_new and not beginning.done():
            (out / CONFIG).unlink(missing_ok=True)
        raise
