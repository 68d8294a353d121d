"""Checksums of a checkpoint's files, taken while they are written: nothing is read back."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.checkpoint.filesystem import FileSystem

from trainer.state.checkpoint_files import Sums


class _Summed(io.RawIOBase):
    """A file that is written from its beginning to its end, and its checksum."""

    def __init__(self, file: Any) -> None:
        self._file, self.size, self.crc32 = file, 0, 0

    def write(self, data: Any) -> int:
        self.size, self.crc32 = self.size + len(data), zlib.crc32(data, self.crc32)
        return self._file.write(data)  # type: ignore[no-any-return]

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()  # type: ignore[no-any-return]


class _SummedFiles(FileSystem):
    def __init__(self, sums: Sums) -> None:
        self._sums = sums

    @contextmanager
    def create_stream(self, path: str | os.PathLike, mode: str) -> Generator[Any, None, None]:
        with super().create_stream(path, mode) as file:
            if "b" not in mode or "w" not in mode:
                yield file
                return
            summed = _Summed(file)
            yield summed
            self._sums[Path(path).name] = [summed.size, summed.crc32]


class HashingWriter(HuggingFaceStorageWriter):
    """Writes this process's shards as safetensors.

    Attributes:
        sums: size and crc32 of each file that is written, by its name.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(folder, save_distributed=True)
        self.sums: Sums = {}
        self.fs = _SummedFiles(self.sums)
