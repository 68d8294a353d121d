"""Encoding and decoding in pieces, in time and in space, to the same numbers as the whole.

In time each convolution remembers its last two frames. In space a frame too large to hold is run in tiles,
each with a halo as wide as the network can see; what a tile computes inside its halo is what the whole would
have computed there. Each tile has a memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vae.grid import Extent, Factors, latent_size
from vae.network.layers import Cache

PIECE_PIXELS = 2 << 20
"""Frames x height x width that go through the network at once."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of cells: what is computed (with its halo), and which part of it is kept."""

    rows: slice
    columns: slice
    keep_rows: slice
    keep_columns: slice


def _spans(count: int, core: int, halo: int) -> Iterator[tuple[slice, slice]]:
    for begin in range(0, count, core):
        end, low = min(begin + core, count), max(0, begin - halo)
        yield slice(low, min(count, end + halo)), slice(begin - low, end - low)


def tiles(rows: int, columns: int, core: int, halo: int) -> list[list[Tile]]:
    """Tiles of `core` x `core` cells and their halos that cover a grid, by row."""
    return [
        [Tile(r, c, keep_r, keep_c) for c, keep_c in _spans(columns, core, halo)]
        for r, keep_r in _spans(rows, core, halo)
    ]


def _core(rows: int, columns: int, factors: Factors, halo: int, tile_px: int | None) -> int:
    """Side of a tile in cells: as asked, else the whole frame where one group of it fits, else what fits."""
    if tile_px is not None:
        return max(1, tile_px // factors[1])
    if factors[0] * rows * columns * factors[1] * factors[2] <= PIECE_PIXELS:
        return max(rows, columns)
    return max(8, int((PIECE_PIXELS / (factors[0] * factors[1] * factors[2])) ** 0.5) - 2 * halo)


class _Tiled:
    """Runs groups through a network tile by tile, each tile with its own memory."""

    def __init__(self, factors: Factors, halo: int, tile_px: int | None) -> None:
        self.factors, self._halo, self._tile_px = factors, halo, tile_px
        self._grid: list[list[Tile]] = []
        self._caches: dict[Tile | tuple[int, int], Cache] = {}

    def _plan(self, rows: int, columns: int) -> list[list[Tile]]:
        if not self._grid:
            self._grid = tiles(
                rows, columns, _core(rows, columns, self.factors, self._halo, self._tile_px), self._halo
            )
        return self._grid

    def _memory(self, row: int, column: int) -> Cache:
        return self._caches.setdefault((row, column), {})

    def _groups_at_once(self, rows: int, columns: int) -> int:
        return max(1, PIECE_PIXELS // (self.factors[0] * self.factors[1] * self.factors[2] * rows * columns))


class EncodeStream(_Tiled):
    """Push frames, get latents as soon as their group of frames is there, flush at the end.

    Equals the whole encoding.
    """

    def __init__(
        self,
        encode_groups: Callable[[Tensor, Cache], tuple[Tensor, Tensor]],
        factors: Factors,
        halo: int,
        tile_px: int | None = None,
    ) -> None:
        super().__init__(factors, halo, tile_px)
        self._encode = encode_groups
        self._pending: Tensor | None = None
        self._last: Tensor | None = None

    def _run(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """groups: [3, f_t*n, f*h, f*w]."""
        _, f_h, f_w = self.factors
        lines: list[tuple[Tensor, Tensor]] = []
        for i, line in enumerate(self._plan(groups.shape[2] // f_h, groups.shape[3] // f_w)):
            row: list[tuple[Tensor, Tensor]] = []
            for j, tile in enumerate(line):
                part = groups[
                    :,
                    :,
                    tile.rows.start * f_h : tile.rows.stop * f_h,
                    tile.columns.start * f_w : tile.columns.stop * f_w,
                ]
                mean, logvar = self._encode(part[None], self._memory(i, j))
                row.append(
                    (
                        mean[0][..., tile.keep_rows, tile.keep_columns],
                        logvar[0][..., tile.keep_rows, tile.keep_columns],
                    )
                )
            lines.append((torch.cat([part[0] for part in row], -1), torch.cat([part[1] for part in row], -1)))
        return torch.cat([part[0] for part in lines], -2), torch.cat([part[1] for part in lines], -2)

    def _emit(self, groups: Tensor) -> list[tuple[Tensor, Tensor]]:
        factor_t, f_h, f_w = self.factors
        step = factor_t * self._groups_at_once(groups.shape[2] // f_h, groups.shape[3] // f_w)
        return [self._run(groups[:, i : i + step]) for i in range(0, groups.shape[1], step)]

    @torch.no_grad()
    def push(self, frames: Tensor) -> list[tuple[Tensor, Tensor]]:
        """frames [3, n, H, W] in [-1, 1], n >= 1.

        Returns (mean, logvar) [C, n, h, w] of the latents completed.
        """
        factor_t, f_h, f_w = self.factors
        padded = F.pad(frames, (0, -frames.shape[3] % f_w, 0, -frames.shape[2] % f_h), mode="replicate")
        before = padded[:, :1].expand(-1, factor_t - 1, -1, -1) if self._pending is None else self._pending
        self._last = padded[:, -1:].clone()
        padded = torch.cat([before, padded], dim=1)
        whole = padded.shape[1] // factor_t * factor_t
        self._pending = padded[:, whole:].clone()
        return self._emit(padded[:, :whole])

    @torch.no_grad()
    def flush(self) -> list[tuple[Tensor, Tensor]]:
        """The latent of the frames left over, padded by repeating the last one; nothing if none are."""
        if self._pending is None or self._last is None or self._pending.shape[1] == 0:
            return []
        missing = self.factors[0] - self._pending.shape[1]
        groups = torch.cat([self._pending, self._last.expand(-1, missing, -1, -1)], dim=1)
        self._pending = self._pending[:, :0]
        return self._emit(groups)


class DecodeStream(_Tiled):
    """Push latents, get the frames they stand for, in [-1, 1]; together exactly those of the extent.

    Equals the whole decoding.
    """

    def __init__(
        self,
        decode_groups: Callable[[Tensor, Cache], Tensor],
        factors: Factors,
        halo: int,
        extent: Extent,
        first_type: Literal["frame", "group"] = "frame",
        tile_px: int | None = None,
    ) -> None:
        super().__init__(factors, halo, tile_px)
        self._decode, self._extent = decode_groups, extent
        self._skip = factors[0] - 1 if first_type == "frame" else 0
        self._left = extent.num_frames

    def _run(self, z: Tensor) -> Tensor:
        _, f_h, f_w = self.factors
        lines = []
        for i, line in enumerate(self._plan(z.shape[2], z.shape[3])):
            row = []
            for j, tile in enumerate(line):
                video = self._decode(z[None, :, :, tile.rows, tile.columns], self._memory(i, j))[0]
                row.append(
                    video[
                        :,
                        :,
                        tile.keep_rows.start * f_h : tile.keep_rows.stop * f_h,
                        tile.keep_columns.start * f_w : tile.keep_columns.stop * f_w,
                    ]
                )
            lines.append(torch.cat(row, -1))
        return torch.cat(lines, -2)[:, :, : self._extent.height_px, : self._extent.width_px].clamp(-1, 1)

    @torch.no_grad()
    def push(self, z: Tensor) -> list[Tensor]:
        """z [C, n, h, w]: the next latents. Returns their frames [3, m, H, W]."""
        out = []
        step = self._groups_at_once(z.shape[2], z.shape[3])
        for i in range(0, z.shape[1], step):
            frames = self._run(z[:, i : i + step])[:, self._skip :][:, : self._left]
            self._skip = 0
            self._left -= frames.shape[1]
            if frames.shape[1]:
                out.append(frames)
        return out

    def flush(self) -> list[Tensor]:
        """Nothing is ever held back; here for the protocol, where a decoder may look ahead."""
        return []


def num_latents(extent: Extent, factors: Factors, first_type: Literal["frame", "group"] = "frame") -> int:
    """Latents in time of a video; a slice that begins with a whole group has no single first frame."""
    return latent_size(extent, factors)[0] if first_type == "frame" else -(-extent.num_frames // factors[0])
