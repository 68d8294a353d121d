"""Bytes on a local disk or an object store.

Why: every read and write of a dataset goes through these few functions, so that `s3://` and a local folder
behave alike and a write is either wholly there or not there at all. It is not a cache and knows nothing of
datasets.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import os
import platform
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyarrow import fs

from manifests.errors import UsageError
from manifests.store import objects

CHUNK_BYTES = 8 << 20


def absolute(uri: str) -> str:
    """The address in full: a local path from the root of the disk, others as they are."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem and the path inside it of a local path or a `scheme://` URI.

    Raises:
        UsageError: the scheme is not one that can be opened.
    """
    if uri.startswith(tuple(f"{scheme}:" for scheme in objects.SCHEMES)) and "://" not in uri:
        raise UsageError(uri, "is no address", "Write it with two slashes, as s3://bucket/folder.")
    if "://" not in uri:
        return fs.LocalFileSystem(), absolute(uri)
    try:
        return (
            objects.opened(uri) if uri.partition("://")[0] in objects.SCHEMES else fs.FileSystem.from_uri(uri)
        )
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            uri, f"cannot be opened ({error})", "Give a local path, s3:// or gs:// address."
        ) from error


def is_local(filesystem: fs.FileSystem) -> bool:
    return isinstance(filesystem, fs.LocalFileSystem)


def exists(filesystem: fs.FileSystem, path: str) -> bool:
    return filesystem.get_file_info(path).type != fs.FileType.NotFound


def sha256_of(filesystem: fs.FileSystem, path: str) -> str:
    """SHA-256 of a file's bytes, in hex; no more than a piece of it is held."""
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:
        while block := stream.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_bytes(filesystem: fs.FileSystem, path: str) -> bytes:
    """All of a file: on an object store by one request."""
    if (store := objects.handler_of(filesystem)) is not None:
        return store.read(path)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read())


def read_range(filesystem: fs.FileSystem, path: str, offset: int, size_bytes: int) -> bytes:
    """`size_bytes` bytes from `offset`, by one ranged GET on an object store; short at the file's end."""
    if is_local(filesystem):
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size_bytes)
    if (store := objects.handler_of(filesystem)) is not None:
        return store.read_range(path, offset, size_bytes)
    with filesystem.open_input_file(path) as file:
        return bytes(file.read_at(size_bytes, offset))


def temporary_name(path: str) -> str:
    """A name beside `path` that no reader takes for data: readers skip names that end in `.tmp`.

    It says whose it is, for `sweep`.
    """
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{_here()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


@functools.cache
def _here() -> str:
    """Where numbers of processes mean the same: this machine, or a container of it."""
    link = Path("/proc/self/ns/pid")
    space = link.readlink() if link.is_symlink() else ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:6]


def sweep(path: str | Path) -> None:
    """Remove what processes that are gone had begun to write beside a local file, to be put in its place."""
    folder, name = os.path.split(path)
    for left in Path(folder or ".").glob(f".{glob.escape(name)}.{_here()}-*.tmp"):
        process = left.name.removesuffix(".tmp").split("-")[-2]
        if process.isdigit() and not is_alive(int(process)):
            left.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Whether there is a process of that number here."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


@contextlib.contextmanager
def beside(path: str) -> Iterator[Path]:
    """A name to write to first; nothing is left of it, and an error of the disk says what it was for."""
    temporary = Path(temporary_name(path))
    try:
        yield temporary
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = path
        raise
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: str | Path) -> None:
    """Have a local file, or a folder's names, written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(filesystem: fs.FileSystem, local_file: Path, path: str) -> None:
    """Make a finished local file appear under `path`, whole or not at all.

    Locally: fsync and rename (the file must be on the same disk). On an object store: one upload, which
    appears when complete; one that is interrupted leaves nothing under the name.
    """
    if is_local(filesystem):
        with open(local_file, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(local_file, path)
        flush(os.path.dirname(path))
        return
    _store(filesystem, path).upload(path, local_file)
    local_file.unlink()


def copy_in(filesystem: fs.FileSystem, what: bytes | Path, path: str) -> None:
    """Write bytes, or a copy of a local file, under `path`, whole or not at all."""
    if isinstance(what, bytes):
        write_bytes(filesystem, path, what)
    elif is_local(filesystem):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with beside(path) as temporary:
            shutil.copyfile(what, temporary)
            publish(filesystem, temporary, path)
    else:
        _store(filesystem, path).upload(path, what)


def copy_out(filesystem: fs.FileSystem, path: str, local_file: Path) -> None:
    """Copy a stored file to a local one, a piece at a time; it appears when it is whole."""
    with beside(str(local_file)) as temporary:
        with filesystem.open_input_stream(path, compression=None) as stream, open(temporary, "wb") as file:
            while piece := stream.read(CHUNK_BYTES):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, local_file)


def _store(filesystem: fs.FileSystem, path: str) -> objects.ObjectStore:
    if (store := objects.handler_of(filesystem)) is None:
        schemes = ", ".join(objects.SCHEMES)
        raise UsageError(path, "cannot be written", f"Datasets lie on a local disk or on {schemes}.")
    return store


def write_local(path: Path, data: bytes) -> None:
    """Write a small file on this machine's disk, whole or not at all."""
    write_bytes(fs.LocalFileSystem(), str(path.absolute()), data)


def write_bytes(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    """Write a small file, whole or not at all; parent folders are made."""
    if is_local(filesystem):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with beside(path) as temporary:
            temporary.write_bytes(data)
            publish(filesystem, temporary, path)
        return
    _store(filesystem, path).upload(path, data)


def create_bytes(filesystem: fs.FileSystem, path: str, data: bytes) -> bool:
    """Write a small file, whole or not at all, only where there is none of that name.

    Of several writers at once exactly one succeeds.

    Returns:
        Whether this call made it.
    """
    if not is_local(filesystem):
        return _store(filesystem, path).create(path, data)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with beside(path) as temporary:
            temporary.write_bytes(data)
            flush(temporary)
            _appear(temporary, path)
    except FileExistsError:
        return False
    flush(os.path.dirname(path))
    return True


def check_conditions(filesystem: fs.FileSystem, path: str) -> None:
    """Refuse a store on which two writers could write over each other. `path`: of an object to try it with.

    Raises:
        OSError: it is one.
    """
    if not is_local(filesystem):
        _store(filesystem, path).check_conditions(path)


def swap_bytes(filesystem: fs.FileSystem, path: str, data: bytes, before: bytes | None) -> bool:
    """Write a small file where it still holds `before`; None: where there is none.

    Of several writers at once exactly one succeeds.

    Returns:
        Whether this call wrote it.
    """
    if before is None:
        return create_bytes(filesystem, path, data)
    if not is_local(filesystem):
        return _store(filesystem, path).swap(path, data, before)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if Path(path).read_bytes() != before:
            return False
        write_bytes(filesystem, path, data)
    except FileNotFoundError:
        return False
    finally:
        os.close(folder)
    return True


def _appear(temporary: Path, path: str) -> None:
    """Give a finished file a name that must not be taken.

    Raises:
        FileExistsError: it is.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}:
            raise
        with alone_in(os.path.dirname(path)):  # a disk without links: one writer at a time
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
            os.replace(temporary, path)


@contextlib.contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Wait until no other process holds a local folder so; a disk without locks keeps nobody out."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def list_files(
    filesystem: fs.FileSystem, folder: str, suffix: str = "", recursive: bool = True
) -> list[fs.FileInfo]:
    """Files below `folder`, sorted by path, without unfinished `.tmp` files; [] for a missing folder."""
    selector = fs.FileSelector(folder, recursive=recursive, allow_not_found=True)
    found = [info for info in filesystem.get_file_info(selector) if info.type == fs.FileType.File]
    return sorted(
        (info for info in found if info.path.endswith(suffix) and not info.path.endswith(".tmp")),
        key=lambda info: info.path,
    )


def delete_files(filesystem: fs.FileSystem, paths: Sequence[str]) -> None:
    """Remove files; those that are gone already stay so."""
    if (store := objects.handler_of(filesystem)) is not None:
        store.delete_files(paths)
        return
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            filesystem.delete_file(path)


def list_folders(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Names of the folders directly below one, sorted; [] for a missing one."""
    found = filesystem.get_file_info(fs.FileSelector(folder, recursive=False, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)
