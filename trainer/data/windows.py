"""Which part of too long or too large samples is shown: consecutive windows, or one at random."""

from __future__ import annotations

import numpy as np

from trainer.data.samples import SampleTable, Size, Window


class Cutter:
    """The windows of a table's samples under a limit of tokens.

    Attributes:
        is_over: [n] whether a sample is shown through windows.
        per_frame: [n] tokens of a layer.
        pieces: [n] showings that one draw of a sample takes: 1, or as many windows as cover it in time.

    Args:
        limit: most tokens of a window.
        is_covering: whether a long sample is shown whole in every epoch, window after window; else one random
            window of it.
        is_resharing: whether a last window of one layer takes some of the one before it.
    """

    def __init__(
        self, table: SampleTable, patch: Size, limit: int, is_covering: bool, is_resharing: bool = True
    ) -> None:
        self.table, self.patch, self.limit, self.is_covering = table, patch, limit, is_covering
        self.is_resharing = is_resharing
        self.per_frame = per_frame = table.per_frame(patch).astype(np.int32, copy=False)
        layers, most = self._layers(slice(None)), self._most(slice(None))
        is_long = layers > most
        self.is_over = is_long | (per_frame > limit)
        self.pieces = np.ones(len(table), dtype=np.int32)
        if is_covering:
            self.pieces[is_long] = -(-layers[is_long] // most[is_long])

    def _layers(self, rows: slice | int) -> np.ndarray:
        """Layers of patches in time."""
        return -(-self.table.latent_t[rows] // self.patch[0])  # type: ignore[no-any-return]

    def _most(self, rows: slice | int) -> np.ndarray:
        """Most layers to show at once."""
        most = np.maximum(self.limit // self.per_frame[rows], 1)
        if self.table.limit_t is None:
            return most  # type: ignore[no-any-return]
        return np.minimum(most, np.maximum(self.table.limit_t[rows] // self.patch[0], 1))  # type: ignore[no-any-return]

    def cut(self, index: int, rng: np.random.Generator) -> Window:
        """The window of a showing; indices from n on are further showings of the same samples."""
        repeat, at = divmod(index, len(self.table))
        t, h, w = int(self.table.latent_t[at]), int(self.table.latent_h[at]), int(self.table.latent_w[at])
        layers, most, pieces = int(self._layers(at)), int(self._most(at)), int(self.pieces[at])
        if self.is_covering:
            # full windows and a rest: halves of a pack would leave gaps that nothing fills. A rest of one
            # layer is no motion to learn from: it and the window before it are dealt again
            number = repeat % pieces
            first, last = number * most, min(layers, (number + 1) * most)
            if self.is_resharing and layers % most == 1 and most > 2 and number >= pieces - 2:
                middle = layers - (most + 1) // 2
                first, last = (first, middle) if number == pieces - 2 else (middle, layers)
        else:
            first = int(rng.integers(0, max(1, layers - most + 1)))
            last = min(layers, first + most)
        start = first * self.patch[0]
        height, width = fitting(h, w, self.patch, self.limit)
        top, left = (int(rng.integers(0, size - part + 1)) for size, part in ((h, height), (w, width)))
        return Window(start, min(t, last * self.patch[0]) - start, top, height, left, width)


def fitting(h: int, w: int, patch: Size, limit: int) -> tuple[int, int]:
    """The largest rectangle of cells, of about the aspect of a frame, within `limit` tokens."""
    rows, columns = -(-h // patch[1]), -(-w // patch[2])
    if rows * columns > limit:
        rows = max(1, int(rows * (limit / (rows * columns)) ** 0.5))
        columns = max(1, min(columns, limit // rows))
    return min(h, rows * patch[1]), min(w, columns * patch[2])
