"""What is known of a decoded picture besides its pixels: whether it is damaged, or may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Signs:
    """Of one picture.

    Attributes:
        is_damaged: the decoder concealed damage, or it is built on what is damaged or missing.
        is_by_gap: it seems damaged, or after a loss, by a gap in time alone, which may be a pause.
        is_key: it is built on no other picture.
        is_intra: no part of it is built on another picture, which do not all begin anew with it.
        is_after_loss: others were lost just before it, on which it is not built.
        num_refused: so many just before it were refused by a decoder that else gives sound pictures alone.
        is_stand_in: its decoder calls it a keyframe, and the file does not: where a picture was lost dav1d
            shows the keyframe again that is in its place.
        is_restarted: the clock of the file begins anew with it: something else was joined behind.
    """

    is_damaged: bool = False
    is_by_gap: bool = False
    is_key: bool = True
    is_intra: bool = True
    is_after_loss: bool = False
    num_refused: int = 0
    is_stand_in: bool = False
    is_restarted: bool = False

    def to_list(self) -> list[Any]:
        """As JSON has it."""
        flags = [self.is_damaged, self.is_by_gap, self.is_key, self.is_intra, self.is_after_loss]
        return [*flags, self.num_refused, self.is_stand_in, self.is_restarted]

    @classmethod
    def from_list(cls, found: Sequence[Any]) -> Signs:
        """The signs that `to_list` made a list of.

        Raises:
            TypeError, ValueError: they are none.
        """
        damaged, by_gap, key, intra, after_loss, refused, stand_in, restarted = found
        flags = (bool(damaged), bool(by_gap), bool(key), bool(intra), bool(after_loss))
        return cls(*flags, int(refused), bool(stand_in), bool(restarted))
