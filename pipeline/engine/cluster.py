"""Ray: join a cluster or start a small one of our own, and refuse at once what it can never run."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.data import DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from manifests.cli import say
from manifests.errors import RushesError, UsageError
from manifests.signals import NUMBERS, interrupt_on_signals, send_put_off
from pipeline.config import Resources

_CODE = Path(__file__).resolve().parents[2]
_ANSWER_S = 10.0
_EXECUTOR_S = 30.0
"""In which a thread of Ray Data ends that was asked to."""
_TOKENS, _YOUNG_S = "rushes-token-", 60.0
_OBJECT_STORE_BYTES = 256 << 20  # rows name shards; no frame crosses the object store


def connect(num_cpus: int | None = None) -> str:
    """Connect to Ray and return where: the address of a cluster, or "embedded".

    `RAY_ADDRESS` (set by `ray job submit`) names a cluster. Without it a local Ray is started for this run
    alone. It listens on more than loopback, whatever it is told, so whoever speaks to it must know a token
    that only this user can read.

    Raises:
        UsageError: the cluster does not answer, or refuses.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = check_address()
    _make_module_path_absolute()
    # Ray puts the working directory first on the module path of every worker, where a folder of the user's
    # named `media` would hide ours: so it starts from ours, and the workers go back to the user's (`go_to`).
    with contextlib.chdir(_CODE):
        if address:
            try:
                ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise _unreachable(address, str(error).strip().splitlines()[0]) from error
        else:
            _keep_others_out()
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            with no_terminal():
                _start(num_cpus)
    interrupt_on_signals()  # Ray has set a handler of its own
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return address or "embedded"


def _start(num_cpus: int | None) -> None:
    """Start a Ray of our own.

    Raises:
        RushesError: it does not come up.
    """
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    except Exception as error:  # Ray says so by errors of all kinds
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RushesError(
            "the embedded Ray", f"did not start ({first})", "Run it again; a machine this busy is slow to."
        ) from error


def _make_module_path_absolute() -> None:
    """Relative entries are other folders where workers run."""
    if paths := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, paths.split(os.pathsep)))


def check_address() -> str:
    """Where the cluster is that `RAY_ADDRESS` names; empty for a Ray of our own.

    Raises:
        UsageError: nothing answers there.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named in {"", "local"}:
        return ""
    address = named
    if named == "auto":
        with contextlib.suppress(OSError):
            address = (Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster").read_text().strip()
        if address == "auto":
            raise _unreachable(named, "no Ray is running on this machine")
    host, _, port = address.partition("://")[2 if "://" in address else 0].rpartition(":")
    try:
        socket.create_connection((host, int(port)), _ANSWER_S).close()
    except (OSError, ValueError) as error:
        raise _unreachable(named, f"nothing answers at {address} ({error})") from error
    return address


def _unreachable(address: str, cause: str) -> UsageError:
    return UsageError(
        f"RAY_ADDRESS={address}",
        cause,
        "Start that cluster, or unset RAY_ADDRESS for a Ray of this run's own; RAY_AUTH_MODE and the token "
        "must be those of the cluster.",
    )


def _keep_others_out() -> None:
    """Ask for a token of whoever speaks to the Ray that this process starts, unless the user has chosen.

    Ray asks for one by default; told nothing, it would use and write the user's own, which speaks for other
    clusters too. One token a process, for Ray reads it once; only this user can read it; it is not left
    behind.
    """
    if {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        return
    _sweep_tokens()
    folder = tempfile.mkdtemp(prefix=_TOKENS)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = os.path.join(folder, "token")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as long as this process lives: others sweep what nobody holds
    os.write(handle, secrets.token_hex(32).encode())
    os.environ["RAY_AUTH_TOKEN_PATH"] = path


def _plain(path: str, flags: int) -> int:
    """Opens no link, and waits for nobody: anyone may put something of that name there."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _sweep_tokens() -> None:
    """Remove tokens of processes of this user that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_TOKENS}*/token"):
        with contextlib.suppress(OSError), open(path, opener=_plain) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - path.stat().st_mtime > _YOUNG_S:
                shutil.rmtree(path.parent, ignore_errors=True)


def beside_me() -> NodeAffinitySchedulingStrategy:
    """For a helper of the driver: on the driver's node, whose loss ends the run anyhow, and on no other."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


@contextlib.contextmanager
def no_terminal() -> Iterator[None]:
    """Processes that are started inside read nothing from the terminal.

    Ray's workers are in groups of their own: the first of them, or of their children, that reads from the
    terminal is stopped by it for good, its whole group with it, and nobody is told.
    """
    try:
        before = os.dup(0)
    except OSError:  # closed
        yield
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        os.dup2(nothing, 0)
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(nothing)


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
        with _deaf():
            _end_executors()
            ray.shutdown()


def _end_executors() -> None:
    """End the threads of Ray Data that a run leaves behind where it was interrupted.

    One that speaks to Ray once it is shut down ends this process at once, with 1 and without a word
    (`QuickExit` in Ray's core_worker_process.cc).
    """
    executors: list[Any] = [
        thread for thread in threading.enumerate() if type(thread).__name__ == "StreamingExecutor"
    ]
    for thread in executors:
        with contextlib.suppress(Exception):  # of a run that is given up anyway
            thread.shutdown(force=True)  # waits two seconds, and not at all where it was interrupted before
        until_s = time.monotonic() + _EXECUTOR_S
        # `join` and `is_alive` take a thread for ended once a signal has interrupted a `join` (Python 3.11)
        while thread in threading.enumerate() and time.monotonic() < until_s:
            time.sleep(0.01)
        with contextlib.suppress(Exception):
            thread._metadata_fetcher.stop()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """SIGINT and SIGTERM are not heeded inside: whoever presses again would leave Ray's processes behind.

    Ray, as it shuts down, gives SIGTERM its default action in the midst of it (`UninstallSignalAction`),
    which ends this process at once; so a thread takes that back until Ray is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in NUMBERS}
    is_over, ignore = threading.Event(), ctypes.CDLL(None).signal

    def keep_deaf() -> None:
        while not is_over.wait(0.0005):
            ignore(
                signal.SIGTERM, ctypes.c_void_p(1)
            )  # SIG_IGN; `signal.signal` is for the main thread alone

    thread = threading.Thread(target=keep_deaf, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)
        send_put_off()


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
