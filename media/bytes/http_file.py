"""A file behind an http address, read by ranges, or from a temporary copy if the server has none.

Each ranged answer is checked against the first: another ETag, date or size means that the file changed
between two reads, which is an error.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass
from typing import BinaryIO

from media.bytes.blocks import BLOCK_BYTES, BlockReader, Blocks
from media.bytes.http_client import CutError, HttpClient, Response, body
from media.bytes.http_rules import HttpLimits
from media.errors import MediaError

_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d+)-(\d+)|\*)/(\d+|\*)")
_NO_FURTHER = {401: "needs a login", 403: "is forbidden", 404: "does not exist", 410: "is gone"}


@dataclass(frozen=True)
class Facts:
    """Size and state of a file as the server gave them. `tag` is its ETag, else its date, else empty."""

    size_bytes: int
    tag: str


def _refused(response: Response, name: str) -> MediaError:
    words = _NO_FURTHER.get(response.status, f"answers {response.status}")
    reason = "missing" if response.status in {404, 410} else "http_status"
    return MediaError(reason, f"{name} {words} (status {response.status}). Check the address in a browser.")


def _tag(response: Response) -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


class HttpSource:
    """What an address holds: found out by asking for its first block.

    Args:
        is_stat: ask for size and tag alone; `blocks` is then not set unless the file had to be downloaded to
            know them.
    """

    def __init__(self, url: str, limits: HttpLimits, is_stat: bool = False) -> None:
        self.url, self.limits = url, limits
        self._client = HttpClient(url, limits)
        self._spool: BinaryIO | None = None
        self._lock = threading.Lock()
        self._is_stat = is_stat
        size = 1 if is_stat else BLOCK_BYTES
        try:
            self.facts, first = self._client.get({"Range": f"bytes=0-{size - 1}"}, self._first)
        except BaseException:
            self.close()
            raise
        fetch = weakref.WeakMethod(self.fetch)  # the blocks do not keep their source alive: readers do

        def fetch_or_fail(offset: int, size: int) -> bytes:
            method = fetch()
            assert method is not None
            return method(offset, size)

        self.blocks = Blocks(url, self.facts.size_bytes, fetch_or_fail)
        if not is_stat:
            self.blocks.put(first)

    def _first(self, response: Response) -> tuple[Facts, bytes]:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if response.status == 416 and match and match[3] == "0":
            return Facts(0, _tag(response)), b""
        if response.status == 206 and match and match[1] == "0" and match[3].isdigit():
            facts = Facts(self._checked(int(match[3]), self.limits.max_bytes), _tag(response))
            return facts, self._read(response, int(match[2]) + 1)
        if response.status == 206:  # a range without a size, or another one: of no use
            return self._client.get({}, self._whole)
        if response.status != 200:
            raise _refused(response, self.url)
        return self._whole(response)

    def _whole(self, response: Response) -> tuple[Facts, bytes]:
        """Download the file in one response into an anonymous temporary file, which is gone when closed."""
        if response.status != 200:
            raise _refused(response, self.url)
        self._plain(response)
        declared = response.headers.get("Content-Length", "")
        if declared.isdigit():
            self._checked(int(declared), self.limits.max_download_bytes)
            if self._is_stat:
                return Facts(int(declared), _tag(response)), b""
        if self._spool is not None:
            self._spool.close()
        self._spool = tempfile.TemporaryFile(prefix="rushes-")  # type: ignore[assignment]  # noqa: SIM115
        assert self._spool is not None
        size = 0
        piece = body(
            response, self.limits.max_download_bytes, time.monotonic() + self.limits.download_s, self.url
        )
        while data := piece():
            try:
                self._spool.write(data)
                self._spool.flush()
            except OSError as error:
                raise MediaError(
                    "no_space",
                    f"{self.url} gives no ranges, and the folder of temporary files cannot hold it "
                    f"({error}). Set TMPDIR to a larger disk.",
                ) from error
            size += len(data)
        return Facts(size, _tag(response)), b""

    def _checked(self, size: int, limit: int) -> int:
        if size > limit:
            setting = (
                "RUSHES_HTTP_MAX_BYTES"
                if limit == self.limits.max_bytes
                else "RUSHES_HTTP_MAX_DOWNLOAD_BYTES (the server gives no ranges)"
            )
            raise MediaError(
                "too_large",
                f"{self.url} has {size} bytes, the limit is {limit}. Raise {setting} if you mean it.",
            )
        return size

    def _plain(self, response: Response) -> None:
        if response.headers.get("Content-Encoding", "identity").lower() not in {"", "identity"}:
            raise MediaError(
                "unreadable",
                f"{self.url} comes compressed though it was asked for as it is. Download it by hand.",
            )

    def _read(self, response: Response, size: int) -> bytes:
        self._plain(response)
        piece = body(response, size, time.monotonic() + self.limits.request_s, self.url)
        parts = []
        while data := piece():
            parts.append(data)
        whole = b"".join(parts)
        if len(whole) != size:
            raise CutError(f"{len(whole)} of {size} bytes came")
        return whole

    def _fetch_range(self, offset: int, size: int) -> bytes:
        headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
        if self.facts.tag and not self.facts.tag.startswith("W/"):
            headers["If-Range"] = self.facts.tag

        def consume(response: Response) -> bytes:
            if response.status not in {200, 206, 416}:
                raise _refused(response, self.url)
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            is_same = (
                response.status == 206
                and match
                and match[3] in {"*", str(self.facts.size_bytes)}
                and _tag(response) == self.facts.tag
            )
            if not is_same or not match:
                raise MediaError(
                    "source_changed",
                    f"{self.url} changed while it was read (or its server gives ranges only at times). Run "
                    "again.",
                )
            if (match[1], match[2]) != (str(offset), str(offset + size - 1)):
                raise MediaError(
                    "no_ranges",
                    f"{self.url} answers with bytes {match[1]}-{match[2]} where {offset} and {size} more "
                    "were asked for.",
                )
            return self._read(response, size)

        return self._client.get(headers, consume)

    def fetch(self, offset: int, size: int) -> bytes:
        """The bytes [offset, offset + size)."""
        with self._lock:
            if self._spool is None:
                return self._fetch_range(offset, size)
            self._spool.seek(offset)
            return self._spool.read(size)

    def close(self) -> None:
        self._client.close()
        if self._spool is not None:
            self._spool.close()

    def __del__(self) -> None:
        if hasattr(self, "_spool"):
            self.close()


class HttpReader(BlockReader):
    """A reader that keeps its source alive. Readers of one address share one download."""

    def __init__(
        self, source: HttpSource, offset: int = 0, size_bytes: int | None = None, name: str = ""
    ) -> None:
        super().__init__(source.blocks, offset, size_bytes, name)
        self._source: HttpSource | None = source

    def close(self) -> None:
        self._source = None
        super().close()


_sources: weakref.WeakValueDictionary[tuple[str, HttpLimits], HttpSource] = weakref.WeakValueDictionary()
_sources_lock = threading.Lock()


def http_source(url: str, limits: HttpLimits | None = None) -> HttpSource:
    """The source of an address: the one that is open, or a new one.

    Raises:
        MediaError: it cannot be had, or is not allowed.
    """
    limits = limits or HttpLimits.from_environment()
    url = url.partition("#")[0]
    with _sources_lock:
        if source := _sources.get((url, limits)):
            return source
    source = HttpSource(url, limits)
    with _sources_lock:
        return _sources.setdefault((url, limits), source)


def http_stat(url: str, limits: HttpLimits | None = None) -> Facts:
    """Size and tag of a file, by one small request."""
    limits = limits or HttpLimits.from_environment()
    url = url.partition("#")[0]
    with _sources_lock:
        source = _sources.get((url, limits))
    return (source or HttpSource(url, limits, is_stat=True)).facts
