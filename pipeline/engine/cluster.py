"""Ray: join a cluster or start a small one of our own, and refuse at once what it can never run."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.data import DataContext

from manifests.cli import say
from manifests.errors import UsageError
from pipeline.config import Resources

_CODE = Path(__file__).resolve().parents[2]
_OBJECT_STORE_BYTES = 256 << 20  # rows name shards; no frame crosses the object store


def connect(num_cpus: int | None = None) -> str:
    """Connect to Ray and return where: the address of a cluster, or "embedded".

    `RAY_ADDRESS` (set by `ray job submit`) names a cluster. Without it a local Ray is started on loopback for
    this run alone, with its token authentication off, which a local start would otherwise switch on for every
    later Ray command of the user.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    # Ray puts the working directory first on the module path of every worker, where a folder of the user's
    # named `media` would hide ours: so it starts from ours, and the workers go back to the user's (`go_to`).
    with contextlib.chdir(_CODE):
        if address:
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        else:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
    interrupt_on_signals()  # Ray has set a handler of its own
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return address or "embedded"


def go_to(folder: str) -> None:
    """Make the folder in which the user gave a command this worker's own, if it is there on this machine."""
    with contextlib.suppress(OSError):
        os.chdir(folder)


@contextlib.contextmanager
def session(num_cpus: int | None = None) -> Iterator[str]:
    """Be connected to Ray inside the `with` block, and let go of it in every case.

    Yields:
        Where: the address of a cluster, or "embedded".
    """
    try:
        yield connect(num_cpus)
    finally:
        ray.shutdown()


def interrupt_on_signals() -> None:
    """SIGTERM ends a run as Ctrl-C does, even where a background shell ignores Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def preflight(wanted: dict[str, Resources], is_autoscaling: bool = False) -> dict[str, int]:
    """How many actors each stage may have on this cluster.

    One actor of every stage runs at the same time, so their sum must fit. Ray Data grows a stage's pool where
    work waits, up to what fits beside one actor of every other stage.

    Args:
        wanted: resources of one actor, by stage.
        is_autoscaling: trust the autoscaler to bring what is not there yet.

    Raises:
        UsageError: the cluster can never run the stages; the message says what is missing.
    """
    have = ray.cluster_resources()
    cpus, gpus = float(have.get("CPU", 0)), float(have.get("GPU", 0))
    need_cpus, need_gpus = (
        sum(item.num_cpus for item in wanted.values()),
        sum(item.num_gpus for item in wanted.values()),
    )
    listing = ", ".join(
        f"{name} {item.num_cpus:g} CPU {item.num_gpus:g} GPU" for name, item in wanted.items()
    )
    if not is_autoscaling and (need_cpus > cpus + 1e-6 or need_gpus > gpus + 1e-6):
        raise UsageError(
            "preflight",
            f"the stages need {need_cpus:g} CPU and {need_gpus:g} GPU at once ({listing}), the cluster has "
            f"{cpus:g} and {gpus:g}",
            "Lower a stage's share (--curate-on.num-cpus ...), add nodes, or pass --autoscaling if nodes "
            "will come.",
        )
    if is_autoscaling:
        return {name: item.max_actors or 1000 for name, item in wanted.items()}

    def room(item: Resources) -> int:
        """Actors of a stage that fit beside one of every other stage."""
        by_cpu = (cpus - need_cpus) / item.num_cpus + 1 if item.num_cpus else float("inf")
        by_gpu = (gpus - need_gpus) / item.num_gpus + 1 if item.num_gpus else float("inf")
        fits = min(by_cpu, by_gpu, item.max_actors or float("inf"))
        return max(1, int(fits + 1e-6)) if fits != float("inf") else 1

    actors = {name: room(item) for name, item in wanted.items()}
    say(
        f"preflight: {cpus:g} CPU, {gpus:g} GPU; actors: "
        + ", ".join(f"{name} up to {count}" for name, count in actors.items())
    )
    return actors
