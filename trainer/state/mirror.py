"""A copy of a run's checkpoints on an object store, for machines whose disks go with them.

A checkpoint is copied by threads while training goes on, each process its share of the files, and is there
once its `state.json` is, which comes last. What is deleted here is deleted there, and which checkpoints are
trusted is noted there too. Small files of the run go with it: settings whole, logs as the piece that is new
since the copy before. So a run whose folder is gone goes on exactly where its newest whole copy was made.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from learning import processes
from manifests.cli import say
from manifests.errors import IntegrityError, RushesError, UsageError
from manifests.store import storage
from manifests.store.json_files import parse_object, read_object
from trainer.state.checkpoint_files import STATE, TRUSTED, copying_folder, list_checkpoints
from trainer.state.mirror_logs import Logs
from trainer.state.parallel import Ranks

OF_RUN, LOGS = "run", "logs"
"""Folder of a copy with the settings of the run and the sizes of its logs; folder of all copies with pieces
of the logs, named by where each begins."""
_SIZES = "sizes.json"
_UNREACHED = (OSError, RushesError)


class Mirror:
    """Copies of the checkpoints of one run. Every process must make the same calls.

    Args:
        address: folder on an object store, or on another disk.
        run: the run's folder.
    """

    def __init__(self, address: str, run: Path, ranks: Ranks) -> None:
        self.address, self.run, self.ranks = address, run, ranks
        self.filesystem, root = storage.resolve(address)
        self._root = root.rstrip("/")
        self.logs = Logs(self.filesystem, f"{self._root}/{LOGS}")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._pending: tuple[Future[None], Path] | None = None
        self._state_of_pending, self._left = b"", set[str]()

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"

    def begin(self, checkpoint: Path) -> None:
        """Copy a checkpoint that has appeared, in the background; none while another is under way."""
        self.poll()
        if self._pending:
            if self.ranks.is_first:
                self._tell(f"the copy before is under way, {checkpoint.name} is not copied")
            return
        files, logs = list[str](), dict[str, int]()
        if self.ranks.is_first:
            files = [path.name for path in checkpoint.iterdir() if path.is_file() and path.name != STATE]
            logs = {path.name: path.stat().st_size for path in self.run.glob("*.jsonl")}
        files, logs = processes.exchanged((sorted(files), logs))[0]
        own = self._held(checkpoint, files[self.ranks.rank :: self.ranks.size])
        self._state_of_pending = (checkpoint / STATE).read_bytes() if self.ranks.is_first else b""
        self._pending = self._pool.submit(self._copy, checkpoint.name, own, logs), checkpoint

    def _held(self, checkpoint: Path, files: list[str]) -> list[Path]:
        """Files of a checkpoint under names that stay when it is rotated away before they are copied."""
        folder = copying_folder(self.checkpoints, checkpoint.name, self.ranks.rank)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in files:
            try:
                os.link(checkpoint / name, folder / name)
            except OSError:  # a disk without links
                shutil.copyfile(checkpoint / name, folder / name)
        return [folder / name for name in files]

    def _copy(self, step: str, files: list[Path], logs: dict[str, int]) -> None:
        target = f"{self._root}/{step}"
        for path in files:
            storage.copy_in(self.filesystem, path, f"{target}/{path.name}")
        if not self.ranks.is_first:
            return
        for path in self.run.glob("*.json"):
            storage.copy_in(self.filesystem, path.read_bytes(), f"{target}/{OF_RUN}/{path.name}")
        for name, size in logs.items():
            self.logs.send(self.run / name, size)
        sizes = json.dumps(logs).encode()
        storage.copy_in(self.filesystem, sizes, f"{target}/{OF_RUN}/{_SIZES}")

    def poll(self) -> None:
        """Let a copy appear if every process has made its part."""
        if self._pending and self.ranks.sum([float(self._pending[0].done())])[0] == self.ranks.size:
            self._appear()

    def _appear(self) -> None:
        """Write a copy's state, where all processes have made their parts; one that failed is only told."""
        assert self._pending is not None
        (future, checkpoint), self._pending = self._pending, None
        failed = self._guarded(future.result, f"{checkpoint.name} is not copied")
        held = copying_folder(self.checkpoints, checkpoint.name, self.ranks.rank)
        shutil.rmtree(held, ignore_errors=True)
        if not self.ranks.sum([float(failed)])[0] and self.ranks.is_first:
            self._guarded(lambda: self._complete(checkpoint), f"{checkpoint.name} is not copied")

    def _complete(self, checkpoint: Path) -> None:
        keep = {path.name for path in list_checkpoints(self.checkpoints)}
        if checkpoint.name not in self._left:
            state = f"{self._root}/{checkpoint.name}/{STATE}"
            storage.write_bytes(self.filesystem, state, self._state_of_pending)
            keep.add(checkpoint.name)  # also where it has been rotated away here: it is the newest there
        self._delete([step for step in self._steps() if step not in keep])

    def finish(self) -> None:
        """Wait for what is being copied, and copy the newest checkpoint if that has not been done."""
        if self._pending:
            self._pending[0].exception()
            self._appear()
        lacking = ""
        if self.ranks.is_first and (newest := list_checkpoints(self.checkpoints)[-1:]):
            lacking = "" if newest[0].name in self._known() else newest[0].name
        if lacking := processes.exchanged(lacking)[0]:
            self.begin(self.checkpoints / lacking)
            if self._pending:
                self._pending[0].exception()
                self._appear()

    def trust(self, checkpoint: Path) -> None:
        """Note beside its copy that the run stayed calm beyond a checkpoint; the first process alone."""
        path = f"{self._root}/{checkpoint.name}/{TRUSTED}"
        self._guarded(lambda: storage.write_bytes(self.filesystem, path, b""), "trust is not noted")

    def forget(self, names: list[str]) -> None:
        """Delete copies of checkpoints that the run leaves; the first process alone, before it deletes them.

        Raises:
            OSError, RushesError: the store cannot be reached: they would come back at a resume.
        """
        self._left |= set(names)
        there = set(self._steps())
        self._delete([name for name in names if name in there])

    def _delete(self, steps: list[str]) -> None:
        """Delete copies, their state first."""
        for step in steps:
            files = [info.path for info in storage.list_files(self.filesystem, f"{self._root}/{step}")]
            storage.delete_files(self.filesystem, [path for path in files if path.endswith(f"/{STATE}")])
            storage.delete_files(self.filesystem, files)

    def _guarded(self, work: Callable[[], object], what: str) -> bool:
        """Do something that a run can do without; whether it failed, which is told."""
        try:
            work()
        except _UNREACHED as error:
            self._tell(f"{what}: {error}")
            return True
        return False

    def _tell(self, what: str) -> None:
        say(f"fit: {self.address}: {what}")

    def _steps(self) -> list[str]:
        names = storage.list_folders(self.filesystem, self._root)
        return [name for name in names if name.startswith("step-")]

    def _known(self) -> list[str]:
        try:
            return self.complete()
        except _UNREACHED:
            return []

    def complete(self) -> list[str]:
        """Names of the whole copies, oldest first: those with a state and every file that it names."""
        found = []
        for step in self._steps():
            source = f"{self._root}/{step}"
            names = {info.path[len(source) + 1 :] for info in storage.list_files(self.filesystem, source)}
            if STATE not in names:
                continue
            try:
                is_whole = names >= set(self._state(step)["files"])
            except IntegrityError as error:
                self._tell(f"{step} is damaged and not taken: {error}")
                is_whole = False
            found += [step] if is_whole else []
        return found

    def _state(self, step: str) -> dict:
        return read_object(self.filesystem, f"{self._root}/{step}/{STATE}", keys=("state", "files"))

    def restore(self, check: Callable[[dict], None]) -> None:
        """Fetch what is newer there than all that lies here: where nothing does, every whole copy.

        The first process fetches; that the bytes are right is checked where a checkpoint is taken up.

        Args:
            check: raises where settings are not those of this run.

        Raises:
            UsageError: the copies are of a run with other settings, or cannot be read; on every process, for
                none may wait for another that has ended.
        """
        problem = ""
        if self.ranks.is_first:
            try:
                self._restore(check)
            except _UNREACHED as error:
                problem = str(error)
        if said := processes.exchanged(problem)[0]:
            raise UsageError(self.address, said, "Mend that, or name another --checkpoints.")

    def _restore(self, check: Callable[[dict], None]) -> None:
        here, there = list_checkpoints(self.checkpoints), self.complete()
        wanted = [step for step in there if not here or step > here[-1].name]
        if not wanted:
            return
        config = f"{self._root}/{wanted[-1]}/{OF_RUN}/config.json"
        check(parse_object(storage.read_bytes(self.filesystem, config), config))
        self._fetch_run(wanted[-1])
        for step in wanted:
            self._fetch(step)
        self._tell(f"{', '.join(wanted)} fetched")

    def _fetch_run(self, step: str) -> None:
        """Settings and logs of the run as they were at a step; what lies here stays."""
        source = f"{self._root}/{step}/{OF_RUN}"
        self.run.mkdir(parents=True, exist_ok=True)
        sizes = read_object(self.filesystem, f"{source}/{_SIZES}")
        for info in storage.list_files(self.filesystem, source, ".json"):
            if info.base_name != _SIZES and not (self.run / info.base_name).exists():
                storage.copy_out(self.filesystem, info.path, self.run / info.base_name)
        for name, size in sizes.items():
            target = self.run / Path(name).name
            if not target.exists():
                data = self.logs.read(target.name, size)
                if len(data) < size:
                    self._tell(
                        f"{name} ends after {len(data)} of {size} bytes: a piece is missing or damaged"
                    )
                storage.write_local(target, data)

    def _fetch(self, step: str) -> None:
        source, temporary = f"{self._root}/{step}", self.checkpoints / f".{step}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        files = set(self._state(step)["files"]) | {STATE, TRUSTED}
        for info in storage.list_files(self.filesystem, source, recursive=False):
            if info.base_name in files:
                storage.copy_out(self.filesystem, info.path, temporary / info.base_name)
        shutil.rmtree(self.checkpoints / step, ignore_errors=True)
        temporary.rename(self.checkpoints / step)
        storage.flush(self.checkpoints)
