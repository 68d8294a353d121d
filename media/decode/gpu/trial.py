"""A GPU's frames are believed as far as they were seen to be the processor's.

Drivers err: the first frames of each codec and pixel format are decoded by the processor too, and the
processor's are given out. One that differs ends the GPU's part in that kind. Later the first frame of each
file is compared, and every sixteenth file whole.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from media.decode.facts import Probe
from media.decode.gpu.nvdec import NAME
from media.errors import why

PROOF_FRAMES = 120
"""Frames of a kind that are compared before the GPU's are given out."""
ONE_OF, MOST_TROUBLES = 16, 3
"""One of so many files is compared whole; so many on which the GPU failed, and the kind is left alone."""
_LITTLE_S = 2e-4  # behind a frame, and before the next one


@dataclass
class Standing:
    """What is known of the GPU's frames of one kind.

    Attributes:
        num_equal: frames that were compared.
        num_troubles: files that it did not decode to their end, where the processor went on.
        refusal: why it decodes no more of them.
    """

    num_equal: int = 0
    num_troubles: int = 0
    refusal: str = ""


_standings = defaultdict[tuple[str, str], Standing](Standing)
_untold = list[str]()


def standing_of(facts: Probe) -> Standing:
    """That of the kind of a file, in this process."""
    return _standings[facts.codec, facts.pixel_format]


def told() -> list[str]:
    """Why the GPU decodes no more of a kind, where that was not told yet."""
    found = list(_untold)
    _untold.clear()
    return found


class SideBySide:
    """Frames of one file by the GPU, beside the processor's where they are compared.

    Args:
        by_processor: gives frames with `start_s <= time_s` on.
        by_gpu: the same.

    Attributes:
        decoder: which one gave the last frame.
    """

    def __init__(
        self,
        facts: Probe,
        by_processor: Callable[[float], Iterator[Any]],
        by_gpu: Callable[[float], Iterator[Any]],
    ) -> None:
        self._facts, self._by_processor, self._by_gpu = facts, by_processor, by_gpu
        self.decoder = NAME

    def frames(self, start_s: float) -> Iterator[Any]:
        """Frames from `start_s` on.

        Raises:
            MediaError: the processor cannot decode the file (further).
        """
        standing = standing_of(self._facts)
        if standing.refusal:
            self.decoder = "pyav"
            yield from self._by_processor(start_s)
            return
        is_audited = zlib.crc32(self._facts.path.encode()) % ONE_OF == 0
        is_whole = is_audited or standing.num_equal < PROOF_FRAMES
        beside: Iterator[Any] | None = self._by_processor(start_s)
        after_s = start_s
        with closing(self._by_gpu(start_s)) as of_gpu:  # type: ignore[type-var]
            while True:
                try:
                    given = next(of_gpu, None)
                except Exception as error:  # noqa: BLE001 - whatever it is: the processor decides
                    yield from self._rest(standing, error, beside or self._by_processor(after_s))
                    return
                if beside is not None:
                    right = next(beside, None)
                    if not _are_same(given, right):
                        self._note(standing, f"decodes {self._facts.path} otherwise", is_sure=True)
                        self.decoder = "pyav"
                        if right is not None:
                            yield right
                            yield from beside
                        return
                    standing.num_equal += right is not None
                    given, beside = right, beside if is_whole else None
                if given is None:
                    return
                after_s = given.time_s + _LITTLE_S
                yield given

    def _rest(self, standing: Standing, error: Exception, frames: Iterator[Any]) -> Iterator[Any]:
        """What the processor gives where the GPU failed, which is its fault if there is more."""
        self.decoder, has_more = "pyav", False
        for frame in frames:
            has_more = True
            yield frame
        if has_more:
            self._note(standing, f"fails: {why(error)}", is_sure=False)

    def _note(self, standing: Standing, fault: str, *, is_sure: bool) -> None:
        standing.num_troubles += 1
        if is_sure or standing.num_troubles >= MOST_TROUBLES:
            kind = f"{self._facts.codec} of {self._facts.pixel_format}"
            standing.refusal = f"the GPU {fault}: {kind} is decoded by the processor from here on"
            _untold.append(standing.refusal)


def _are_same(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    return bool(first.time_s == second.time_s) and np.array_equal(first.rgb, second.rgb)
