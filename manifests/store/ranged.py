"""An object of a store as a file that is read in pieces, and what a store says as the system's errors."""

from __future__ import annotations

import errno
import io
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import obstore
import pyarrow as pa
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError

Result = TypeVar("Result")
TAIL_BYTES = 1 << 18
"""Read when an object is opened: most tables' parts are no longer, and of others the footer is there."""
_REFUSED = "400 Bad Request"
_OF_THE_MACHINE = "http://169.254."
"""Where a cloud tells its machines their keys: asked where nothing else names any."""
_NO_KEYS = "no keys were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ?anonymous=1; "
_NO_KEYS += "AWS_PROFILE is read where boto3 is installed (the extra `s3`)"
_NO_BUCKET = "NoSuchBucket"
_TRIES = 6


num_opened = 0
"""Objects that this process has opened as files (see `rushes.py`)."""


def opened_object(store: Any, key: str, path: str) -> pa.PythonFile:
    """An object, by one request: its size and its last bytes.

    Raises:
        FileNotFoundError, PermissionError, OSError: as `said`.
    """
    global num_opened  # noqa: PLW0603 - read where the process ends
    num_opened += 1
    with said(path):
        try:
            found = obstore.get(store, key, options={"range": {"suffix": TAIL_BYTES}})
            size, tail = found.meta["size"], bytes(found.bytes())
        except (NotFoundError, FileNotFoundError, PermissionDeniedError, UnauthenticatedError):
            raise
        except BaseError:  # an empty object has no last bytes, and some stores refuse to look for them
            size, tail = obstore.head(store, key)["size"], b""
    return pa.PythonFile(_Reader(store, key, size, path, tail), mode="r")


class _Reader(io.RawIOBase):
    """An object as a file: each read is one ranged request, but for the tail that is there."""

    def __init__(self, store: Any, key: str, size: int, path: str, tail: bytes) -> None:
        self._store, self._key, self._size, self._path, self._at = store, key, size, path, 0
        self._tail, self._tail_at = tail, size - len(tail)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def size(self) -> int:
        """Bytes of the object."""
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        length = left if size is None or size < 0 else min(size, left)
        if not length:
            return b""
        if self._at >= self._tail_at:
            begin = self._at - self._tail_at
            data = self._tail[begin : begin + length]
        else:
            with said(self._path):
                data = bytes(obstore.get_range(self._store, self._key, start=self._at, length=length))
        self._at += len(data)
        return data


@contextmanager
def said(path: str) -> Iterator[None]:
    """Errors of the store as errors of the operating system, on one line, with the object's path."""
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        if _NO_BUCKET in str(error):
            raise FileNotFoundError(f"bucket {path.strip('/').partition('/')[0]} does not exist") from error
        raise FileNotFoundError(f"{path} does not exist") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise PermissionError(f"{path}: ACCESS_DENIED ({_line(error)})") from error
    except BaseError as error:
        text = _line(error)
        if _NO_BUCKET in str(error):
            raise FileNotFoundError(f"bucket {path.strip('/').partition('/')[0]} does not exist") from error
        if _OF_THE_MACHINE in text:
            text = f"{_NO_KEYS} (nor does this machine give any: {text})"
        text += ", as stores answer expired credentials too" if _REFUSED in text else ""
        raise OSError(errno.EIO, text, path) from error


def _line(error: Exception) -> str:
    """The first sentence of obstore's error, without its debug print."""
    return " ".join(str(error).split("\n\nDebug source")[0].split())[:400]


def listed(ask: Callable[[], Result]) -> Result:
    """What a list gives, asked again where its answer was cut: obstore does that for objects alone."""
    for number in range(_TRIES - 1):
        try:
            return ask()
        except BaseError as error:
            if "response body" not in str(error):
                raise
            time.sleep(0.2 * 2**number * (0.5 + random.random()))
    return ask()
