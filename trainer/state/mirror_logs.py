"""Logs of a run on an object store, in pieces: each checkpoint adds what is new."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pyarrow import fs

from manifests.store import storage

_CHUNK = 16 << 20


class _Piece(NamedTuple):
    """A part of a log, where it begins in it."""

    begin: int
    size: int
    crc32: int
    path: str

    @property
    def end(self) -> int:
        return self.begin + self.size


def _crc32(file: BinaryIO, size: int) -> int:
    """Of the next bytes of a file."""
    crc32 = 0
    while size > 0 and (data := file.read(min(size, _CHUNK))):
        crc32, size = zlib.crc32(data, crc32), size - len(data)
    return crc32


@dataclass(frozen=True)
class Logs:
    """The logs in a folder of a store: `<name>/<where the piece begins>-<its crc32>`."""

    filesystem: fs.FileSystem
    folder: str

    def send(self, path: Path, size: int) -> None:
        """Send what is new of a log up to a size, from the first piece there that is not what lies here.

        A resumed run cuts its logs and writes other bytes in their place.
        """
        pieces, sent = self._pieces(path.name), 0
        with open(path, "rb") as file:
            for number, piece in enumerate(pieces):
                if piece.begin != sent or piece.end > size or piece.crc32 != _crc32(file, piece.size):
                    storage.delete_files(self.filesystem, [other.path for other in pieces[number:]])
                    break
                sent = piece.end
            if sent < size:
                file.seek(sent)
                data = file.read(size - sent)
                where = f"{self.folder}/{path.name}/{sent:015d}-{zlib.crc32(data):08x}"
                storage.copy_in(self.filesystem, data, where)

    def _pieces(self, name: str) -> list[_Piece]:
        """The pieces of a log, in order."""
        found = list[_Piece]()
        for info in storage.list_files(self.filesystem, f"{self.folder}/{name}"):
            begin, _, crc32 = info.base_name.partition("-")
            if begin.isdigit():
                found.append(_Piece(int(begin), info.size, int(crc32, 16), info.path))
        return sorted(found)

    def read(self, name: str, size: int) -> bytes:
        """A log up to a size, or to the first piece that is missing or damaged."""
        found = b""
        for piece in self._pieces(name):
            data = storage.read_bytes(self.filesystem, piece.path)
            if piece.begin != len(found) or zlib.crc32(data) != piece.crc32:
                break
            found += data
        return found[:size]
