"""Members of plain tars, addressed as `PATH_OR_ADDRESS.tar#member/name.mp4`.

Their places are found by reading headers only.

A member's name is a key and never a path: nothing is unpacked.
"""

from __future__ import annotations

import re
import tarfile
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from media.bytes.blocks import BlockReader, Blocks
from media.errors import MediaError

_MEMBER = re.compile(r"(.+?\.tar(?:\?[^#]*)?)#(.+)", re.DOTALL | re.IGNORECASE)
MAX_MEMBERS = 2_000_000
_MAX_INDEXES = 32
HEADER_BLOCK_BYTES = 32 << 10
MAX_EXTENSION_BYTES = 1 << 20
MAX_GLOBAL_KEYS = 256
_END_BYTES = 2 * tarfile.BLOCKSIZE
MOST_ZEROS_BYTES = 4 << 20
"""Behind the end of a tar, in which another may begin: `cat a.tar b.tar`."""
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@dataclass(frozen=True)
class TarIndex:
    """Payload (offset, size in bytes) of each regular member, in the order of the tar.

    `damage` says why the tar could not be read to its end; empty where it could. `left` counts what else lies
    in it and cannot be told by a name: links, sparse files, second members of a name.
    """

    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    damage: str = ""
    left: Counter[str] = field(default_factory=Counter)


def split_member(uri: str) -> tuple[str, str] | None:
    """The tar's address and the member's name; None for any other address."""
    match = _MEMBER.fullmatch(uri)
    if match and "://" not in uri and not is_file(match[1]):  # a folder may be named so
        cuts = [found.end() - 1 for found in re.finditer(r"\.tar#", uri, re.IGNORECASE)]
        if tars := [cut for cut in cuts if is_file(uri[:cut])]:
            return uri[: tars[0]], uri[tars[0] + 1 :]
        if is_file(uri):
            return None
    return (match[1], match[2]) if match else None


def is_file(path: str) -> bool:
    """Whether there is a file of this name; not where there can be none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a name that is too long
        return False


def is_tar(uri: str) -> bool:
    """Whether an address names a plain tar as a whole, and not a member of one."""
    if split_member(uri):
        return False
    path = uri.split("?", 1)[0] if "://" in uri else uri
    return path.lower().endswith(".tar")


class _Bounded(tarfile.TarInfo):
    """A header whose extensions are read only within bounds: they claim a size, which is read at once."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0:
            raise tarfile.ReadError(f"a header claims {self.size} bytes")
        if self.type in _EXTENSIONS and self.size > MAX_EXTENSION_BYTES:
            raise tarfile.ReadError(f"an extended header claims {self.size} bytes")
        if len(tar.pax_headers) > MAX_GLOBAL_KEYS:  # each would be given to each member
            raise tarfile.ReadError(f"its global headers have over {MAX_GLOBAL_KEYS} keys")
        return super()._proc_member(tar)  # type: ignore[misc,no-any-return]

    def _proc_gnusparse_10(self, *_: object) -> None:
        """The map of a sparse member is not read: such members are left out."""


def read_index(blocks: Blocks, name: str) -> TarIndex:
    """Read the headers of a tar, and of those joined behind it.

    The first of two members of one name counts; links, folders and sparse members are left out.
    """
    found, begin = TarIndex(), 0
    while not found.damage:
        found, end = _read_one(blocks, name, begin, found)
        if found.damage or (begin := _next_begin(blocks, end)) >= blocks.size_bytes:
            break
        if not _is_header(blocks, begin):  # a signature, a note, or too many zeros to read
            if begin - end < _END_BYTES:  # one block of zeros alone ends no tar: a header was lost
                damage = f"{name} has damaged bytes at {end}, where a header should be"
                return TarIndex(found.members, damage, found.left)
            found.left["bytes behind its end"] += blocks.size_bytes - begin
            break
    return found


def _next_begin(blocks: Blocks, end: int) -> int:
    """Where the first block that is not of zeros follows the end of a tar, or where looking for it ends."""
    reader = BlockReader(blocks)
    reader.seek(end)
    for at in range(end, end + MOST_ZEROS_BYTES, tarfile.RECORDSIZE):
        data = reader.read(tarfile.RECORDSIZE)
        if not data:
            return blocks.size_bytes
        if any(data):
            return at + (len(data) - len(data.lstrip(b"\0"))) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
    return min(blocks.size_bytes, end + MOST_ZEROS_BYTES)


def _is_header(blocks: Blocks, at: int) -> bool:
    reader = BlockReader(blocks)
    reader.seek(at)
    try:
        tarfile.TarInfo.frombuf(reader.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _read_one(blocks: Blocks, name: str, begin: int, before: TarIndex) -> tuple[TarIndex, int]:
    """Read the headers of a tar that begins at a place.

    Returns:
        What was found before with what it holds, and where it ends.
    """
    members, left, at = before.members, before.left, -1
    reader = BlockReader(blocks)
    reader.seek(begin)
    try:
        with tarfile.open(fileobj=reader.as_binary(), mode="r:", tarinfo=_Bounded) as tar:
            while (info := tar.next()) is not None:
                if info.size < 0 or tar.offset <= at:  # it would be read for ever
                    return TarIndex(members, f"{name}: the header of {info.name} leads back", left), at
                at = tar.offset
                if info.isreg() and not info.issparse():
                    if info.offset_data + info.size > blocks.size_bytes:
                        return TarIndex(members, f"{name} is cut inside {info.name}", left), at
                    left["second members of a name"] += info.name in members
                    members.setdefault(info.name, (info.offset_data, info.size))
                elif not info.isdir():
                    left["links, sparse files and devices"] += 1
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header it saw
                if len(members) > MAX_MEMBERS:
                    return TarIndex(members, f"{name} has more than {MAX_MEMBERS} members", left), at
            end = tar.offset
        reader.seek(end)
        if any(reader.read(tarfile.BLOCKSIZE)):
            return TarIndex(
                members, f"{name} has damaged bytes at {end}, where a header should be", left
            ), end
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as error:
        return TarIndex(members, f"{name} is no whole plain tar ({error})", left), begin
    return TarIndex(members, left=left), end


class TarIndexes:
    """Indexes of the tars used lately in this process, by address, size and state."""

    def __init__(self) -> None:
        self._indexes: OrderedDict[tuple[str, int, str], TarIndex] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, blocks: Blocks, name: str, tag: str) -> TarIndex:
        key = (name, blocks.size_bytes, tag)
        with self._lock:
            if key in self._indexes:
                self._indexes.move_to_end(key)
                return self._indexes[key]
        index = read_index(blocks, name)
        with self._lock:
            self._indexes[key] = index
            while len(self._indexes) > _MAX_INDEXES:
                self._indexes.popitem(last=False)
        return index


def payload(index: TarIndex, tar: str, member: str) -> tuple[int, int]:
    """Offset and size in bytes of a member.

    Raises:
        MediaError: the tar has no such member (missing), or is damaged before it (bad_tar).
    """
    if found := index.members.get(member):
        return found
    if index.damage:
        raise MediaError("bad_tar", f"{tar}#{member}: {index.damage}. Fetch the tar again.")
    raise MediaError("missing", f"{tar} has no member {member}. List it with tar -tf.")
