"""Sharded matrices made whole on one process each, and dealt back: one exchange of all with all each way.

FSDP2 parts a weight by rows, as `torch.chunk` does: the last processes may have fewer, or none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

BUCKET_ELEMENTS = 64 << 20
"""Of the matrices that are exchanged at once."""


def bucketed(shapes: Sequence[Sequence[int]], most: int = BUCKET_ELEMENTS) -> Iterator[list[int]]:
    """Indices of matrices in a row whose sizes add up to at most `most`, or of one larger one."""
    held, own = 0, list[int]()
    for index, shape in enumerate(shapes):
        size = shape[0] * shape[1]
        if own and held + size > most:
            yield own
            held, own = 0, []
        held, own = held + size, [*own, index]
    if own:
        yield own


class Shards:
    """The processes among which weights like `weight` are sharded.

    Raises:
        ValueError: it is sharded by other than its rows.
    """

    def __init__(self, weight: DTensor) -> None:
        [dimension] = [at for at, place in enumerate(weight.placements) if isinstance(place, Shard)]
        if weight.placements[dimension].dim != 0:  # type: ignore[attr-defined]
            raise ValueError("only weights that are sharded by rows can be gathered")
        self.group = weight.device_mesh.get_group(dimension)
        self.size, self.rank = dist.get_world_size(self.group), dist.get_rank(self.group)

    def rows(self, count: int) -> list[int]:
        """Rows of a matrix that each process has."""
        each = -(-count // self.size)
        return [max(0, min(each, count - rank * each)) for rank in range(self.size)]

    def owners(self, shapes: Sequence[torch.Size]) -> list[int]:
        """Which process makes each matrix whole: the largest first, to whoever has least to do."""
        work, owner = [0] * self.size, [0] * len(shapes)
        cost = [shape[0] * shape[1] * min(shape) for shape in shapes]
        for index in sorted(range(len(shapes)), key=lambda index: -cost[index]):
            owner[index] = work.index(min(work))
            work[owner[index]] += cost[index]
        return owner

    def to_owners(self, own: Sequence[Tensor], shapes: Sequence[torch.Size]) -> dict[int, Tensor]:
        """Of this process's rows of each matrix: the matrices that are its, whole, by index."""
        owner = self.owners(shapes)
        order = sorted(range(len(shapes)), key=lambda index: owner[index])
        sent = [
            sum(own[index].numel() for index in order if owner[index] == rank) for rank in range(self.size)
        ]
        mine = [index for index in order if owner[index] == self.rank]
        sizes = [
            [self.rows(shapes[index][0])[rank] * shapes[index][1] for index in mine]
            for rank in range(self.size)
        ]
        flat = torch.cat([own[index].reshape(-1) for index in order])
        came = flat.new_empty(sum(map(sum, sizes)))
        dist.all_to_all_single(came, flat, [sum(part) for part in sizes], sent, group=self.group)
        pieces: list[list[Tensor]] = [[] for _ in mine]
        for part, lengths in zip(came.split([sum(part) for part in sizes]), sizes, strict=True):
            for place, piece in enumerate(part.split(lengths)):
                pieces[place].append(piece)
        return {index: torch.cat(pieces[place]).view(shapes[index]) for place, index in enumerate(mine)}

    def from_owners(
        self, whole: dict[int, Tensor], shapes: Sequence[torch.Size], like: Tensor
    ) -> list[Tensor]:
        """The way back: this process's rows of every matrix, of the kind of `like`."""
        owner = self.owners(shapes)
        order = sorted(range(len(shapes)), key=lambda index: owner[index])
        mine = [index for index in order if owner[index] == self.rank]
        parts = [whole[index].split(self.rows(shapes[index][0])) for index in mine]
        sent = [sum(part[rank].numel() for part in parts) for rank in range(self.size)]
        rows = [self.rows(shape[0])[self.rank] for shape in shapes]
        lengths = [rows[index] * shapes[index][1] for index in order]
        came_sizes = [
            sum(length for index, length in zip(order, lengths, strict=True) if owner[index] == rank)
            for rank in range(self.size)
        ]
        pieces = [part[rank].reshape(-1) for rank in range(self.size) for part in parts]
        flat = torch.cat(pieces) if pieces else like.new_empty(0)
        came = flat.new_empty(sum(lengths))
        dist.all_to_all_single(came, flat, came_sizes, sent, group=self.group)
        found = dict(zip(order, came.split(lengths), strict=True))
        return [found[index].view(rows[index], shapes[index][1]) for index in range(len(shapes))]
