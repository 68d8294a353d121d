"""Facts of many clips as columns of numbers: a few hundred bytes a clip, shared by the processes of a node.

What a run reads of a clip's manifest is looked up by its id, in sorted columns. They are plain arrays, so
processes of one node may map the same files (learning/sharing.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.store.shards import Member

CHUNK = 1 << 18


def ids_of(values: pa.ChunkedArray) -> np.ndarray:
    """Texts as bytes of one width, [n]: far less memory than as objects."""
    width = pc.max(pc.binary_length(values)).as_py() or 1
    found = np.empty(len(values), dtype=f"S{width}")
    begin = 0
    for chunk in values.chunks:
        for start in range(0, len(chunk), CHUNK):
            part = chunk.slice(start, CHUNK)
            found[begin : begin + len(part)] = [value.encode() for value in part.to_pylist()]
            begin += len(part)
    return found


def narrow(values: np.ndarray) -> np.ndarray:
    """The same numbers in as few bytes as hold them all; those with fractions as they are."""
    if values.dtype.kind not in "iu" or not len(values):
        return values
    least, most = int(values.min()), int(values.max())
    kind = np.min_scalar_type(most) if least >= 0 else np.result_type(*map(np.min_scalar_type, (least, most)))
    return values.astype(kind)


def places(known: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of some names lies among sorted ones, and whether it is there at all."""
    if not len(known):
        return np.zeros(len(asked), dtype=np.int64), np.zeros(len(asked), dtype=bool)
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return at, known[at] == asked


class Names(Sequence[str]):
    """Names that are kept as bytes [n], or as some rows of such an array."""

    def __init__(self, values: np.ndarray, rows: np.ndarray | None = None) -> None:
        self.values, self.rows = values, rows

    def __len__(self) -> int:
        return len(self.values if self.rows is None else self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        at = index if self.rows is None else self.rows[index]
        return bytes(self.values[at]).decode()

    def take(self, rows: np.ndarray) -> Names:
        """Some of them, by their numbers."""
        return Names(self.values, rows if self.rows is None else self.rows[rows])

    def find(self, name: str) -> int:
        """The number of a name among sorted ones.

        Raises:
            KeyError: it is not there.
        """
        assert self.rows is None
        asked = np.array(name.encode())
        if asked.itemsize > self.values.itemsize or not len(self.values):
            raise KeyError(name)
        at = int(np.searchsorted(self.values, asked.astype(self.values.dtype)))
        if at == len(self.values) or self.values[at] != asked:
            raise KeyError(name)
        return at


@dataclass(frozen=True)
class Lists:
    """Lists of different lengths, one after the other.

    Attributes:
        offsets: [n + 1] where each begins.
        values: of all.
    """

    offsets: np.ndarray
    values: np.ndarray

    @staticmethod
    def of(rows: np.ndarray, count: int, values: np.ndarray) -> Lists:
        """Values by the row each belongs to, in their order within it."""
        order = np.argsort(rows, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])
        return Lists(offsets, values[order])

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[int(self.offsets[row]) : int(self.offsets[row + 1])]


class _ByClip(Mapping[str, Any]):
    """Something of each clip, by its id."""

    def __init__(self, names: Names) -> None:
        self.names = names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, clip_id: str) -> Any:
        return self.at(self.names.find(clip_id))

    def at(self, row: int) -> Any:
        """What lies in a row."""
        raise NotImplementedError


NUMBERS = {
    "shard": np.int32,
    "latent_t": np.int32,
    "latent_h": np.int32,
    "latent_w": np.int32,
    "num_frames": np.int32,
    "height_px": np.int32,
    "width_px": np.int32,
    "fps": np.float64,
    "slab_offset": np.int32,
}
"""Fields of `latents` that a run reads of each clip; -1 stands for none."""


class ClipRows(_ByClip):
    """The row of `latents` of each clip, as far as a run reads it.

    Args:
        numbers: `NUMBERS`, [n] each; crc32: checksums of slabs.
        same: fields that all clips share.
    """

    def __init__(
        self, names: Names, numbers: dict[str, np.ndarray], crc32: Lists, same: dict[str, Any]
    ) -> None:
        super().__init__(names)
        self.numbers, self.crc32, self.same = numbers, crc32, same

    def at(self, row: int) -> dict[str, Any]:
        found = {name: value[row].item() for name, value in self.numbers.items()}
        for name in ("slab_offset", "fps"):
            found[name] = None if found[name] < 0 else found[name]
        return {"clip_id": self.names[row], **found, "slab_crc32": self.crc32[row], **self.same}


class MemberRows(_ByClip):
    """The tar's path and the member of each clip.

    Args:
        tars: paths; fields: names of members after the clip's.
        numbers: which tar (-1: none), which field, offset, size_bytes and crc32, [n] each.
    """

    def __init__(
        self, names: Names, tars: list[str], fields: list[str], numbers: dict[str, np.ndarray]
    ) -> None:
        super().__init__(names)
        self.tars, self.fields, self.numbers = tars, fields, numbers

    def at(self, row: int) -> tuple[str, Member]:
        tar, field, offset, size, crc32 = (
            self.numbers[name][row].item() for name in ("tar", "field", "offset", "size_bytes", "crc32")
        )
        if tar < 0:
            raise KeyError(self.names[row])
        return self.tars[tar], Member(f"{self.names[row]}.{self.fields[field]}", offset, size, crc32)


class CaptionRows(_ByClip):
    """(caption id, kind, source) of the captions of each clip, in stored order.

    Args:
        ids: of captions; kinds: numbers of (kind, source) among `known`.
    """

    def __init__(self, names: Names, ids: Lists, kinds: Lists, known: list[tuple[str, str]]) -> None:
        super().__init__(names)
        self.ids, self.kinds, self.known = ids, kinds, known

    def at(self, row: int) -> list[tuple[str, str, str]]:
        own = zip(self.ids[row], self.kinds[row], strict=True)
        return [(bytes(name).decode(), *self.known[kind]) for name, kind in own]


Arrays = dict[str, np.ndarray]
