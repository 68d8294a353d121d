"""A copy of a run's checkpoints on an object store, for machines whose disks go with them.

A checkpoint is copied by threads while training goes on, each process its share of the files, and is there
once its `state.json` is, which comes last. Small files of the run (settings, logs, what is held out) go with
it, so that a run whose folder is gone goes on exactly where its newest complete copy was made.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from manifests.cli import say
from manifests.errors import IntegrityError, RushesError
from manifests.store import storage
from manifests.store.json_files import read_object
from trainer.state.checkpoint_files import STATE, list_checkpoints
from trainer.state.parallel import Ranks

OF_RUN = "run"
"""Folder of a copy with the small files of the run."""
_PATTERNS = ("*.json", "*.jsonl")


class Mirror:
    """Copies of the checkpoints of one run. Every process must make the same calls.

    Args:
        address: folder on an object store, or on another disk.
        run: the run's folder.
        keep: copies kept.
    """

    def __init__(self, address: str, run: Path, keep: int, ranks: Ranks) -> None:
        self.address, self.run, self.keep, self.ranks = address.rstrip("/"), run, keep, ranks
        self.filesystem, self._root = storage.resolve(self.address)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._pending: tuple[Future[None], Path] | None = None

    def begin(self, checkpoint: Path) -> None:
        """Copy a checkpoint that has appeared, in the background."""
        self.finish()
        files = {path.name: path for path in checkpoint.iterdir() if path.name != STATE and path.is_file()}
        small = [path for pattern in _PATTERNS for path in self.run.glob(pattern)]
        files |= {f"{OF_RUN}/{path.name}": path for path in small}
        own = sorted(files.items())[self.ranks.rank :: self.ranks.size]
        # logs are being written to: what is in them now is what belongs to the checkpoint
        held = [(name, path.read_bytes() if name.startswith(OF_RUN) else path) for name, path in own]
        self._pending = self._pool.submit(self._copy, checkpoint.name, held), checkpoint

    def _copy(self, step: str, files: list[tuple[str, bytes | Path]]) -> None:
        for name, what in files:
            storage.copy_in(self.filesystem, what, f"{self._root}/{step}/{name}")

    def poll(self) -> None:
        """Let a copy appear if every process has made its part."""
        if self._pending and self.ranks.sum([float(self._pending[0].done())])[0] == self.ranks.size:
            self.finish()

    def finish(self) -> None:
        """Wait for what is being copied. A copy that fails is told and costs nothing but itself."""
        if not self._pending:
            return
        (future, checkpoint), self._pending = self._pending, None
        why = ""
        try:
            future.result()
        except (OSError, RushesError) as error:
            why = str(error)
            say(f"fit: {checkpoint.name} is not copied to {self.address}: {error}")
        if self.ranks.sum([float(bool(why))])[0] or not self.ranks.is_first:
            return
        try:
            state = (checkpoint / STATE).read_bytes()
            storage.write_bytes(self.filesystem, f"{self._root}/{checkpoint.name}/{STATE}", state)
            self._rotate()
        except (OSError, RushesError) as error:
            say(f"fit: {checkpoint.name} is not copied to {self.address}: {error}")

    def _rotate(self) -> None:
        """Delete the oldest copies beyond `keep`, their state first, and what an interrupted one left."""
        complete = self.complete()
        kept, newest = set(complete[-self.keep :]), complete[-1]
        for step in storage.list_folders(self.filesystem, self._root):
            if step.startswith("step-") and step not in kept and step < newest:
                path = f"{self._root}/{step}"
                files = [info.path for info in storage.list_files(self.filesystem, path)]
                storage.delete_files(self.filesystem, [name for name in files if name.endswith(f"/{STATE}")])
                storage.delete_files(self.filesystem, files)

    def complete(self) -> list[str]:
        """Names of the complete copies, oldest first."""
        names = storage.list_folders(self.filesystem, self._root)
        return [
            name
            for name in names
            if name.startswith("step-") and storage.exists(self.filesystem, f"{self._root}/{name}/{STATE}")
        ]

    def restore(self, folder: Path) -> None:
        """Fetch the newest copy into the run's checkpoints, where it is newer than all that lie there.

        The first process fetches; that the bytes are right is checked where the checkpoint is taken up.

        Raises:
            IntegrityError: the copy lacks a file that its state names.
        """
        if self.ranks.is_first:
            here, there = list_checkpoints(folder), self.complete()
            if there and (not here or here[-1].name < there[-1]):
                self._fetch(there[-1], folder)
                say(f"fit: {there[-1]} fetched from {self.address}")
        self.ranks.wait()

    def _fetch(self, step: str, folder: Path) -> None:
        source, final = f"{self._root}/{step}", folder / step
        temporary = folder / f".{step}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        state = read_object(self.filesystem, f"{source}/{STATE}", keys=("state", "files"))
        there = {
            info.path[len(source) + 1 :]: info.path for info in storage.list_files(self.filesystem, source)
        }
        if lacking := sorted(set(state["files"]) - set(there)):
            raise IntegrityError(
                source, f"lacks {', '.join(lacking)}", "Delete this copy: the one before is taken."
            )
        for name, path in there.items():
            place, _, small = name.partition("/")
            if small and place == OF_RUN and not (self.run / small).exists():
                self.run.mkdir(parents=True, exist_ok=True)
                storage.copy_out(self.filesystem, path, self.run / Path(small).name)
            elif not small and (name in state["files"] or name == STATE):
                storage.copy_out(self.filesystem, path, temporary / Path(name).name)
        temporary.rename(final)
        storage.flush(folder)
