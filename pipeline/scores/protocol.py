"""What a scorer is: pictures of clips in, a number for each clip out.

A scorer of one's own is a class of a few lines in a module that the workers can import:

    class Redness:
        name, version, frames = "redness", "1", 4

        def setup(self) -> None: ...

        def score(self, clips):
            return [Score(float(np.mean([rgb[..., 0].mean() for rgb in clip]))) for clip in clips]

and `rushes ingest --score.use my_package.looks:Redness` makes it a row of the table `scores` for each clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Score:
    """What a scorer says of a clip.

    Attributes:
        value: a finite number; its unit is the scorer's.
        words: words that were read, from the most certain on, where the scorer reads.
    """

    value: float
    words: tuple[str, ...] = ()


class Scorer(Protocol):
    """One model that scores clips.

    Attributes:
        name: of lower-case letters, digits and underscores; `scorer` in the table.
        version: changes with what it says: code and weights. Another version is another column.
        frames: previews of a clip that it is given, at most, the first and the last among them.
    """

    name: str
    version: str
    frames: int

    def setup(self) -> None:
        """Load what is needed, once per process.

        Raises:
            UsageError: it is not there.
        """

    def score(self, clips: Sequence[Sequence[np.ndarray]]) -> list[Score]:
        """A score of each clip, by its pictures [H, W, 3] uint8, of any size, at least one.

        They are the other scorers' pictures too, and read-only: what is changed is changed in a copy.
        """
