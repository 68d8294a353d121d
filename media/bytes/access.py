"""Media wherever it lies: one address, one way to open it.

A local path, `s3://` and `gs://` (through `pyarrow.fs`), `http://` and `https://` (by ranges, within
`HttpLimits`), and members of plain tars in any of these places, as `PATH_OR_ADDRESS.tar#member/name.mp4`.
Nothing is copied to disk, except from http servers without ranges.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from media.bytes.blocks import BlockReader, Blocks
from media.bytes.http_file import HttpReader, http_source, http_stat
from media.bytes.http_rules import HttpLimits
from media.bytes.sealed import unsealed
from media.bytes.tar_member import HEADER_BLOCK_BYTES, TarIndex, TarIndexes, is_file, payload, split_member
from media.errors import MediaError

STORES = ("s3://", "gs://", "gcs://")
WEB = ("http://", "https://")
_indexes = TarIndexes()
_through: Callable[[str], BinaryIO] | None = None


def open_through(opener: Callable[[str], BinaryIO]) -> None:
    """From now on this process, which may reach nothing itself, opens what is not local by `opener` alone."""
    global _through  # noqa: PLW0603 - one rule for the whole process
    _through = opener


def is_local(uri: str) -> bool:
    """Whether the address is a path of this machine: one that any library can open by itself."""
    return "://" not in uri and (split_member(uri) is None or is_file(uri))


def _member(uri: str) -> tuple[str, str] | None:
    return None if is_local(uri) else split_member(uri)


def resolve_store(uri: str) -> tuple[fs.FileSystem, str]:
    """Filesystem and path of an object-store address, with blanks and non-ASCII letters escaped.

    Raises:
        MediaError: it is no address that can be read.
    """
    try:
        return fs.FileSystem.from_uri(quote(unsealed(uri), safe=":/?#[]@!$&'()*+,;=%~"))
    except (OSError, ValueError, TypeError) as error:
        raise MediaError(
            "address", f"{uri} cannot be opened ({error}). Give an s3:// or gs:// address."
        ) from error


def _os_error(error: Exception, uri: str) -> MediaError:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, FileNotFoundError) or "NoSuchKey" in text or "404" in text:
        return MediaError("missing", f"{uri} does not exist or is not a file. Check the address.")
    if isinstance(error, PermissionError) or "ACCESS_DENIED" in text or "403" in text:
        return MediaError(
            "access_denied", f"{uri} may not be read ({text}). Check the permissions or credentials."
        )
    return MediaError(
        "timeout" if "timed out" in text.lower() else "unreadable",
        f"{uri}: {text}. Try again, or check the disk or the store.",
    )


def _local_blocks(file: BinaryIO, path: str, **sizes: int) -> Blocks:
    def fetch(offset: int, size: int) -> bytes:
        try:
            return os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise _os_error(error, path) from error

    return Blocks(path, os.fstat(file.fileno()).st_size, fetch, **sizes)


def _store_blocks(uri: str, **sizes: int) -> tuple[Blocks, str, Callable[[], object]]:
    """Blocks of an object, its modification time as text, and what closes it."""
    filesystem, path = resolve_store(uri)
    try:
        info = filesystem.get_file_info(path)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(path)
        file = filesystem.open_input_file(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise _os_error(error, uri) from error

    def fetch(offset: int, size: int) -> bytes:
        try:
            return bytes(file.read_at(size, offset))
        except OSError as error:
            raise _os_error(error, uri) from error

    return Blocks(uri, info.size, fetch, **sizes), str(info.mtime_ns), file.close


def tar_index(tar: str, limits: HttpLimits | None = None) -> TarIndex:
    """Members of the tar at a path or address; kept in this process as long as the tar's size and state stay.

    Raises:
        MediaError: the tar cannot be had. What is wrong inside it is said by `damage` of the index.
    """
    sizes = {"block_bytes": HEADER_BLOCK_BYTES, "max_ahead": 1}
    if tar.startswith(WEB):
        source = http_source(unsealed(tar), limits)
        return _indexes.get(
            Blocks(tar, source.facts.size_bytes, source.fetch, **sizes), tar, source.facts.tag
        )
    if tar.startswith(STORES):
        blocks, tag, close = _store_blocks(tar, **sizes)
        try:
            return _indexes.get(blocks, tar, tag)
        finally:
            close()
    with open_local(tar) as file:
        return _indexes.get(_local_blocks(file, tar, **sizes), tar, str(os.fstat(file.fileno()).st_mtime_ns))


def open_local(path: str) -> BinaryIO:
    """A local file.

    Raises:
        MediaError: it cannot be opened.
    """
    if "://" in path:
        raise MediaError(
            "address",
            f"{path} has a scheme that is not read. Give a path or an address of s3, gs, http or https.",
        )
    try:
        if not Path(path).is_file():
            raise FileNotFoundError(path)
        return open(path, "rb")
    except OSError as error:
        raise _os_error(error, path) from error


def open_binary(uri: str, limits: HttpLimits | None = None) -> BinaryIO:  # noqa: PLR0911 - one a kind
    """A seekable file of bytes, whatever the address. Close it.

    Args:
        limits: for http; None for what the environment says.

    Raises:
        MediaError: missing, access_denied, unreadable, address, bad_tar, and for http those of
            `media.bytes.http_file`. The same come out of reads where the file is not local.
    """
    if is_local(uri):
        return open_local(uri)
    if _through is not None:
        return _through(uri)
    if member := _member(uri):
        tar, name = member
        offset, size = payload(tar_index(tar, limits), tar, name)
        if tar.startswith(WEB):
            return HttpReader(http_source(unsealed(tar), limits), offset, size, uri).as_binary()
        if tar.startswith(STORES):
            blocks, _, close = _store_blocks(tar)
            return BlockReader(blocks, offset, size, uri, close).as_binary()
        file = open_local(tar)
        return BlockReader(_local_blocks(file, tar), offset, size, uri, file.close).as_binary()
    if uri.startswith(WEB):
        return HttpReader(http_source(unsealed(uri), limits)).as_binary()
    if uri.startswith(STORES):
        blocks, _, close = _store_blocks(uri)
        return BlockReader(blocks, on_close=close).as_binary()
    return open_local(uri)  # which says that the scheme is not read


def open_media(uri: str, limits: HttpLimits | None = None) -> str | BinaryIO:
    """What `av.open` and `PIL.Image.open` take: a path if the file is local, else a file object.

    Raises:
        MediaError: as `open_binary`; a missing local file is left for the library to find.
    """
    return uri if is_local(uri) else open_binary(uri, limits)


@contextmanager
def opened(uri: str) -> Iterator[str | BinaryIO]:
    """`open_media` as a context that closes what it opened."""
    media = open_media(uri)
    try:
        yield media
    finally:
        if not isinstance(media, str):
            media.close()


@contextmanager
def held(uri: str) -> Iterator[None]:
    """While inside, all that open this address in this process share one connection, or the one download.

    Nothing for a local path.
    """
    with nullcontext() if is_local(uri) else open_binary(uri):
        yield


def stat_media(uri: str, limits: HttpLimits | None = None) -> tuple[int, str]:
    """Size in bytes, and a text that changes when the file does.

    The text is the ETag over http, else the modification time in ns; empty if unknown.

    Raises:
        MediaError: as `open_binary`.
    """
    if is_local(uri):
        with open_local(uri) as file:
            facts = os.fstat(file.fileno())
            return facts.st_size, str(facts.st_mtime_ns)
    if _through is not None:
        with _through(uri) as far:
            return far.seek(0, os.SEEK_END), ""
    if member := _member(uri):
        size = payload(tar_index(member[0], limits), *member)[1]
        return size, stat_media(member[0], limits)[1]
    if uri.startswith(WEB):
        found = http_stat(unsealed(uri), limits)
        return found.size_bytes, found.tag
    if not uri.startswith(STORES):
        open_local(uri)
    filesystem, path = resolve_store(uri)
    try:
        info = filesystem.get_file_info(path)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise _os_error(error, uri) from error
    return info.size, str(info.mtime_ns)


def read_range(uri: str, offset: int, size_bytes: int, limits: HttpLimits | None = None) -> bytes:
    """The bytes [offset, offset + size_bytes) of a file; fewer only at its end.

    Raises:
        MediaError: as `open_binary`.
    """
    with open_binary(uri, limits) as file:
        file.seek(offset)
        return file.read(size_bytes)
