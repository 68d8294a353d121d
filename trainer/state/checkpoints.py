"""Checkpoints by torch's distributed checkpoint into safetensors, for any number of processes.

Each process writes its own shards.

A checkpoint is a folder that appears when all of it is written (trainer/state/checkpoint_files.py). It holds
no pickle: torch's own format keeps its index in one, its safetensors format does not. Written in the
background, it is first copied to memory, and appears some steps later.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from trainer.state.checkpoint_files import Sums, TrainState, appear, read_state, temporary_folder
from trainer.state.hashing import HashingWriter
from trainer.state.mirror import Mirror
from trainer.state.parallel import Ranks

_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds: the weights, their averages by decay, the optimizers."""

    model: nn.Module
    emas: dict[float, nn.Module]
    optimizers: list[torch.optim.Optimizer]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, sharded ones as shards; a new optimizer gets its initial state."""
        optimizer: dict[str, Any] = get_optimizer_state_dict(self.model, self.optimizers, options=_FLAT)
        found: dict[str, Any] = {
            f"model.{name}": value for name, value in get_model_state_dict(self.model).items()
        }
        for decay, ema in self.emas.items():
            found |= {f"ema{decay:g}.{name}": value for name, value in get_model_state_dict(ema).items()}
        return found | {
            f"optimizer.{name}": value for name, value in optimizer.items() if isinstance(value, Tensor)
        }

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave and a checkpoint filled."""

        def part(name: str, keys: Iterable[str]) -> dict[str, Any]:
            return {key: tensors[f"{name}.{key}"] for key in keys if f"{name}.{key}" in tensors}

        set_model_state_dict(self.model, part("model", get_model_state_dict(self.model)))
        for decay, ema in self.emas.items():
            set_model_state_dict(ema, part(f"ema{decay:g}", get_model_state_dict(ema)))
        state: dict[str, Any] = get_optimizer_state_dict(self.model, self.optimizers, options=_FLAT)
        state.update(part("optimizer", list(state)))
        set_optimizer_state_dict(self.model, self.optimizers, state, options=_FLAT)


class Saver:
    """Writes the checkpoints of a run and keeps the newest `keep`. Every process must make the same calls.

    Args:
        is_async: return once the values are copied, and write while training goes on; `poll` makes what is
            written appear.
    """

    def __init__(
        self, folder: Path, keep: int, ranks: Ranks, is_async: bool = False, mirror: Mirror | None = None
    ) -> None:
        self.folder, self.keep, self.ranks, self.is_async, self.mirror = folder, keep, ranks, is_async, mirror
        self._pending: tuple[Future[Any], TrainState, Sums] | None = None
        # copies for the writing thread, made of a GPU's memory at its full speed and used again each time
        self._stager = DefaultStager(StagingOptions(True, False, False, True)) if _is_pinning(ranks) else None
        # its own group: the writing thread must not come between what the training processes say to each
        # other
        self._group: Any = dist.new_group(backend="gloo") if is_async and ranks.size > 1 else None

    def save(self, trained: Trained, state: TrainState) -> None:
        self._written()
        temporary = temporary_folder(self.folder, state.step)
        if self.ranks.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.ranks.wait()
        tensors = {name: value.detach() for name, value in trained.tensors().items()}
        writer, alone = HashingWriter(str(temporary)), self.ranks.size == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that one process is one process
            if self.is_async:
                pending: Any = dcp.async_save(
                    tensors,
                    storage_writer=writer,
                    process_group=self._group,
                    no_dist=alone,
                    async_stager=self._stager,
                )
                self._pending = pending, state, writer.sums
                return
            with self._whole_or_gone(temporary):
                dcp.save(tensors, storage_writer=writer, no_dist=alone)
        self._appear(state, writer.sums)

    @contextlib.contextmanager
    def _whole_or_gone(self, temporary: Path) -> Iterator[None]:
        """Nothing is left of a checkpoint that cannot be written.

        Raises:
            OSError: a disk that is full, or another reason of the system's, with the checkpoint's name.
        """
        try:
            yield
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            causes = [cause for cause, _ in getattr(error, "failures", {}).values()]
            for cause in [error, *causes]:
                if isinstance(cause, OSError) and cause.errno:
                    raise OSError(cause.errno, os.strerror(cause.errno), str(temporary)) from error
            raise

    def _appear(self, state: TrainState, sums: Sums) -> None:
        with self._whole_or_gone(temporary_folder(self.folder, state.step)):
            path = appear(self.folder, state, self.keep, self.ranks, sums)
        if self.mirror:
            self.mirror.begin(path)

    def poll(self) -> None:
        """Let a checkpoint appear if every process has written its part."""
        if self._pending and self.ranks.sum([float(self._pending[0].done())])[0] == self.ranks.size:
            self._written()
        if self.mirror:
            self.mirror.poll()

    def finish(self) -> None:
        """Wait for what is being written, and copied."""
        self._written()
        if self.mirror:
            self.mirror.finish()

    def _written(self) -> None:
        if self._pending:
            pending, state, sums = self._pending
            self._pending = None
            with self._whole_or_gone(temporary_folder(self.folder, state.step)):
                pending.result()
            self._appear(state, sums)


def _is_pinning(ranks: Ranks) -> bool:
    return ranks.device.type == "cuda"


def load_checkpoint(path: Path, trained: Trained, ranks: Ranks) -> TrainState:
    """Restore everything in place, whatever the number of processes that wrote it; all must call."""
    stored = read_state(path)
    tensors = trained.tensors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=ranks.size == 1)
    trained.take(tensors)
    return stored


def load_part(path: Path, part: str, shapes: dict[str, Tensor]) -> dict[str, Tensor]:
    """One part of a checkpoint (`model` or `ema<decay>`) as whole tensors, on this process alone."""
    wanted = {f"{part}.{name}": torch.empty_like(value) for name, value in shapes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(wanted, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    return {name.removeprefix(f"{part}."): value for name, value in wanted.items()}
