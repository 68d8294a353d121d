"""Tars read to their end, whatever lies between, and told where they have none."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Self

import numpy as np
import webdataset
from webdataset.tariterators import group_by_keys, url_opener

from manifests.cli import say
from manifests.errors import IntegrityError, UsageError
from trainer.data.tars.clip import StreamedClip, read_clip

POOL = 64
"""Clips that are shuffled among each other."""


class _Header(tarfile.TarInfo):
    """A member, where what is no header ends the reading, and zeros do not.

    Two blocks of zeros are the end of a tar. Behind them another may have been joined, which a reader that
    stops there would leave out in silence.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        zeros = getattr(tar, "zeros", 0)
        try:
            found = super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tar.zeros = zeros + 1  # type: ignore[attr-defined]
            raise
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            if zeros > 1:  # something else behind its end
                tar.has_more = True  # type: ignore[attr-defined]
                raise tarfile.EmptyHeaderError("no header") from error  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"damaged at byte {tar.offset:,}: {error}") from error
        if zeros == 1:  # of a header that was lost
            raise tarfile.ReadError(f"damaged at byte {tar.offset - tarfile.BLOCKSIZE:,}: a block of zeros")
        tar.zeros = 0  # type: ignore[attr-defined]
        return found


def _members(sources: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The members of tars that `url_opener` opened, as webdataset has them; an empty one at each end.

    Raises:
        UsageError: one is damaged.
    """
    for source in sources:
        try:
            yield from _members_of(source["stream"], source["url"])
        except (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError) as error:
            raise _unreadable(source["url"], error) from error
        yield {}


class _Begun:
    """A stream whose first bytes were looked at."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            return self._rest.read(size)
        count = len(self._head) if size < 0 else size
        found, self._head = self._head[:count], self._head[count:]
        return found + self._rest.read() if size < 0 else found

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


_PACKED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
"""Readers by the first bytes; unlike tarfile's own they read on where one end is followed by more."""


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    """A tar as it is, or as it was before it was compressed."""
    head = file.read(6)
    whole: Any = _Begun(head, file)
    unpack = next((reader for mark, reader in _PACKED.items() if head.startswith(mark)), None)
    return unpack(whole) if unpack else whole  # type: ignore[no-any-return]


def _members_of(file: IO[bytes], url: str) -> Iterator[dict[str, Any]]:
    with tarfile.open(fileobj=_unpacked(file), mode="r|", tarinfo=_Header, ignore_zeros=True) as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]
            is_own = member.name.startswith("__") and member.name.split("/")[0].endswith("__")  # webdataset's
            if member.isreg() and not is_own:
                data = tar.extractfile(member)
                assert data is not None
                yield {"fname": member.name, "data": data.read(), "__url__": url}
        if getattr(tar, "has_more", False):
            say(f"--tars: {url} has other bytes behind a tar's end, which are left out")
        if not getattr(tar, "zeros", 0):
            say(f"--tars: {url} ends without a tar's end, and what lay behind it is missing: copy it again")


def _unreadable(url: str, error: Exception) -> UsageError:
    why = error.args[0] if error.args and isinstance(error.args[0], str) else error
    step = "Give whole tars, as `rushes export` writes them; copy again what was cut short."
    return UsageError(f"--tars {url}", f"cannot be read ({why})", step)


def stream(
    urls: list[str],
    seed: int | None = None,
    left_out: Callable[[IntegrityError], None] = lambda error: say(f"--tars: a clip is left out: {error}"),
) -> Iterator[StreamedClip]:
    """All clips of the tars once; in an order drawn by the seed, shuffled a little besides, or as they lie.

    Args:
        left_out: is told of each clip that cannot be read.

    Raises:
        UsageError: a tar cannot be read.
    """
    ordered = (
        urls
        if seed is None
        else [urls[index] for index in np.random.default_rng(seed).permutation(len(urls))]
    )
    data = webdataset.DataPipeline(webdataset.SimpleShardList(ordered), url_opener, _members, group_by_keys)
    if seed is not None:
        data = data.compose(webdataset.shuffle(POOL, seed=seed))
    try:
        for sample in data:
            try:
                clip = read_clip(sample)
            except IntegrityError as error:
                left_out(error)
                continue
            yield clip
    except (
        OSError,
        ValueError,
    ) as error:  # of webdataset: what it cannot open, or a name that is there twice
        raise _unreadable(next((str(part) for part in error.args if part in urls), ""), error) from error
