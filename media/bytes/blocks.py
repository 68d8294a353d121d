"""A file-like reader over ranges of bytes, block by block, with read-ahead and a small cache.

Why: PyAV and Pillow read tens of kilobytes at a time and jump about. An object store answers one large
request as fast as one small one.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import BinaryIO, cast

from media.errors import MediaError

BLOCK_BYTES = 1 << 20
MAX_AHEAD = 4  # blocks fetched by one request where reading goes straight on
NUM_BLOCKS = 12


class Blocks:
    """Blocks of one immutable piece of data, kept in order of use.

    Args:
        name: the address, for messages.
        size_bytes: of the whole.
        fetch: gives exactly the bytes [offset, offset + size); raises `MediaError`.
        block_bytes, max_ahead, num_blocks: size of a block, blocks in one request at most, blocks kept.
    """

    def __init__(
        self,
        name: str,
        size_bytes: int,
        fetch: Callable[[int, int], bytes],
        block_bytes: int = BLOCK_BYTES,
        max_ahead: int = MAX_AHEAD,
        num_blocks: int = NUM_BLOCKS,
    ) -> None:
        self.name, self.size_bytes = name, size_bytes
        self._fetch, self._block_bytes, self._max_ahead = fetch, block_bytes, max_ahead
        self._num_blocks = max(num_blocks, max_ahead)
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._run, self._next = 1, -1  # length of the last request and the block after it
        self._lock = threading.Lock()

    def _block(self, index: int) -> bytes:
        if (block := self._blocks.get(index)) is not None:
            self._blocks.move_to_end(index)
            return block
        self._run = min(self._run * 2, self._max_ahead) if index == self._next else 1
        begin = index * self._block_bytes
        end = min(begin + self._run * self._block_bytes, self.size_bytes)
        data = self._fetch(begin, end - begin)
        if len(data) != end - begin:
            raise MediaError(
                "cut",
                f"{self.name} gave {len(data)} of {end - begin} bytes at {begin}. Fetch the file again, or "
                "check its store.",
            )
        for number in range(-(-len(data) // self._block_bytes)):
            self._blocks[index + number] = data[number * self._block_bytes : (number + 1) * self._block_bytes]
            self._blocks.move_to_end(index + number)
        self._next = index + self._run
        while len(self._blocks) > self._num_blocks:
            self._blocks.popitem(last=False)
        return data[: self._block_bytes]

    def put(self, data: bytes) -> None:
        """Keep the first block, which came with the answer that told the size."""
        if len(data) == min(self._block_bytes, self.size_bytes):
            self._blocks[0], self._next = data, 1

    def read(self, offset: int, size_bytes: int) -> bytes:
        """The bytes [offset, offset + size), fewer only where the data ends."""
        end = min(offset + size_bytes, self.size_bytes)
        parts = []
        with self._lock:
            while offset < end:
                index, skip = divmod(offset, self._block_bytes)
                part = self._block(index)[skip : skip + end - offset]
                parts.append(part)
                offset += len(part)
        return b"".join(parts)


class BlockReader(io.RawIOBase):
    """A seekable, read-only file over `blocks`, or over a window of them.

    Attributes:
        name: the address; FFmpeg takes a hint of the format from its ending.
        error: the first error of a read, for a caller whose library swallowed it.

    Args:
        offset, size_bytes: the window, all by default.
        on_close: called once when the reader is closed.
    """

    def __init__(
        self,
        blocks: Blocks,
        offset: int = 0,
        size_bytes: int | None = None,
        name: str = "",
        on_close: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()
        self._on_close = on_close
        self._blocks: Blocks | None = blocks
        self._offset, self._position = offset, 0
        self.size_bytes = blocks.size_bytes - offset if size_bytes is None else size_bytes
        self.name = name or blocks.name
        self.error: MediaError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the beginning")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as asked for unless the data ends first."""
        if self._blocks is None:
            raise ValueError(f"{self.name} is closed")
        left = max(self.size_bytes - self._position, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        try:
            data = self._blocks.read(self._offset + self._position, wanted)
        except MediaError as error:
            self.error = self.error or error
            raise
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._blocks = None
        on_close, self._on_close = self._on_close, None
        if on_close:
            on_close()
        super().close()

    def as_binary(self) -> BinaryIO:
        """The same object under the type that callers name."""
        return cast(BinaryIO, self)
