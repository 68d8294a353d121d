"""This process among those of a training: started by torchrun or Ray Train, or alone."""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from manifests.errors import RushesError

PATIENCE = timedelta(minutes=40)
"""How long processes wait, on the host, for one that decodes samples or writes a large file."""
STEP_PATIENCE = timedelta(minutes=10)
"""How long a device waits for the others in the middle of a step: none of them has more to do than it has."""
_host: list[Any] = []
T = TypeVar("T")


_RECORDED = {"TORCH_FR_BUFFER_SIZE": "2000", "TORCH_NCCL_DUMP_ON_TIMEOUT": "1"}
"""NCCL's flight recorder: what each process was waiting for when one did not come."""


class Place(NamedTuple):
    """Rank, number of processes, and the device of this one."""

    rank: int
    size: int
    device: torch.device


def join() -> Place:
    """Join the processes that the environment speaks of, or stand alone."""
    is_gpu = torch.cuda.is_available()
    for name, value in _RECORDED.items():
        os.environ.setdefault(name, value)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if is_gpu else "gloo", timeout=STEP_PATIENCE if is_gpu else PATIENCE
        )
        atexit.register(leave)
    if dist.is_initialized() and not _host:  # Ray Train has made the group by itself
        _host[:] = [dist.new_group(backend="gloo", timeout=PATIENCE)]
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = (
        torch.device("cuda", local % max(1, torch.cuda.device_count())) if is_gpu else torch.device("cpu")
    )
    if is_gpu:
        torch.cuda.set_device(device)
    return (
        Place(dist.get_rank(), dist.get_world_size(), device)
        if dist.is_initialized()
        else Place(0, 1, device)
    )


def leave() -> None:
    """Leave the other processes, where there are any.

    A process that ends while threads of the group are at work is ended by them, with its own work all done.
    """
    if dist.is_initialized():
        _host.clear()
        dist.destroy_process_group()


def host_group() -> Any:
    """The processes as they speak on the host, without a device: for numbers, and to wait for each other."""
    return _host[0] if _host else None


def wait_for_all() -> None:
    """Wait for the other processes, where there are any; who does not come in `PATIENCE` is named."""
    if not dist.is_initialized():
        return
    if _host:
        dist.monitored_barrier(_host[0], timeout=PATIENCE, wait_all_ranks=True)
    else:  # somebody else made the group
        dist.barrier()


def summed(numbers: list[float]) -> list[float]:
    """Each number summed over all processes, in double precision, on the host: no device is waited for."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return numbers
    total = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(total, group=host_group())
    return total.tolist()  # type: ignore[no-any-return]


def alone() -> bool:
    """Whether this process has no others."""
    return not dist.is_initialized() or dist.get_world_size() == 1


def leads_node() -> bool:
    """Whether this process is the first of its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def node() -> str:
    """Names this machine among those of a run: processes with one name see the same files under /tmp."""
    begin = dist.get_rank() - int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() else 0
    return f"{socket.gethostname()}/{begin}"


def exchanged(own: Any) -> list[Any]:
    """What each process has, for all of them, in their order."""
    if not dist.is_initialized():
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own, group=host_group())
    return found


def first_decides(work: Callable[[], T]) -> T:
    """What the first process finds, on all of them: of files one may see what another does not see yet.

    Every process must call.

    Raises:
        Exception: what `work` raised there, on all of them: none may wait for another that has ended.
    """
    found: T | None = None
    raised: Exception | None = None
    if not dist.is_initialized() or dist.get_rank() == 0:
        try:
            found = work()
        except Exception as error:  # noqa: BLE001 - it is raised below
            raised = error
    found, said = exchanged((found, _as_told(raised)))[0]
    if raised or said:
        raise raised or said
    return found  # type: ignore[return-value]


def _as_told(error: Exception | None) -> Exception | None:
    """An error as other processes can be told it: of those that do not travel, their words."""
    if error is None or isinstance(error, RushesError | OSError):
        return error
    return RushesError(type(error).__name__, str(error))
