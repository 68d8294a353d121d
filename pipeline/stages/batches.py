"""Batches of clips through a model: one clip that fails, or kills, takes none of its neighbours along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.blame import blame
from pipeline.stages.journal import Journal

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Fault:
    """Why a clip has no result; the fields are columns of the `failures` table."""

    error: str
    cause: str


def halving(
    batch: Sequence[Item],
    name_of: Callable[[Item], str],
    make: Callable[[Sequence[Item]], Sequence[Result]],
    journal: Journal,
    limit_s: float,
) -> list[Result | Fault]:
    """What `make` gives for a batch, item by item; where it fails, of its halves, down to single items.

    An item that was in work when a process died goes alone, and is given up by the journal's rule.

    Raises:
        Exception: the machine is at fault and not an item (`blame`).
    """
    names = [name_of(item) for item in batch]
    if len(batch) == 1 and (why := journal.poison(names[0])):
        return [Fault("poison", why)]
    if len(batch) == 1 or not any(map(journal.is_suspect, names)):
        try:
            with journal.item(*names, limit_s=limit_s):
                return list(make(batch))
        except Exception as error:  # noqa: BLE001 - one item must not end the others
            fault = Fault(*blame(error))
        if len(batch) == 1:
            return [fault]
    middle = len(batch) // 2
    halves = (batch[:middle], batch[middle:])
    return [one for half in halves for one in halving(half, name_of, make, journal, limit_s)]
