"""Tar shards: a deterministic writer with an offset index, and a random-access reader.

A shard is a standard USTAR file: member names `<clip id>.<field>.<ext>`, mtime 0, members in the order they
were added (the caller adds clips in clip order), payloads on 512-byte boundaries as tar has them. The same
members give the same bytes. The index (offset, size, crc32 of each payload) is not in the tar but in the
`shards` table, so one ranged read fetches one member.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import tarfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from pyarrow import fs

from manifests.errors import IntegrityError
from manifests.store import storage

BLOCK_BYTES = 512
AGAIN = "Take the commit back with `rushes withdraw` and ingest again."


@dataclass(frozen=True)
class Member:
    """One file in a tar: payload at [offset, offset + size_bytes)."""

    name: str
    offset: int
    size_bytes: int
    crc32: int

    @property
    def key(self) -> str:
        """The clip id: all before the first dot, as webdataset groups members into samples."""
        return self.name.split(".", 1)[0]

    @property
    def field(self) -> str:
        return self.name.split(".", 1)[1]

    def as_row(self) -> dict:
        return asdict(self)


class TarWriter:
    """Writes members to a local file and keeps their index. As a context manager it closes the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: list[Member] = []
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._names: set[str] = set()
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        with contextlib.suppress(OSError):  # a disk that knows no locks
            fcntl.flock(
                self._file, fcntl.LOCK_SH
            )  # it is being written: see `manifests.writing.commit.sweep`

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size_bytes += len(data)

    def add(self, name: str, data: bytes) -> Member:
        """Append one member.

        Raises:
            ValueError: the name repeats, has no field, is over 100 bytes or not plain ASCII.
        """
        if name in self._names or "." not in name or "/" in name or len(name) > 100 or not name.isascii():
            raise ValueError(
                f"tar member name {name!r} repeats or is not of the form <clip id>.<field>.<ext>"
            )
        header = tarfile.TarInfo(name)
        header.size, header.mtime, header.mode = len(data), 0, 0o644
        self._put(header.tobuf(tarfile.USTAR_FORMAT))
        member = Member(name, self.size_bytes, len(data), zlib.crc32(data))
        self._put(data)
        self._put(b"\0" * (-len(data) % BLOCK_BYTES))
        self._names.add(name)
        self.members.append(member)
        return member

    def close(self) -> None:
        if not self._file.closed:
            self._put(b"\0" * (2 * BLOCK_BYTES))
            self._file.close()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_member(filesystem: fs.FileSystem, tar_path: str, member: Member) -> bytes:
    """The payload of one member by one ranged read, its crc32 checked.

    Raises:
        IntegrityError: the tar is shorter than the index says, or the bytes have changed.
    """
    data = storage.read_range(filesystem, tar_path, member.offset, member.size_bytes)
    check_payload(tar_path, member, data)
    return data


def check_payload(tar_path: str, member: Member, data: bytes | memoryview) -> None:
    """Compare bytes read with what the index says of them.

    Raises:
        IntegrityError: there are fewer, or they have changed.
    """
    size = memoryview(data).nbytes
    if size != member.size_bytes:
        raise IntegrityError(
            f"{tar_path}:{member.name}",
            f"is cut: {size} of {member.size_bytes} bytes",
            AGAIN,
        )
    if zlib.crc32(data) != member.crc32:
        raise IntegrityError(
            f"{tar_path}:{member.name}",
            "bytes have changed (crc32)",
            AGAIN,
        )
