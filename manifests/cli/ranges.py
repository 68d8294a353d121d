"""Numbers that make sense: a range for each setting, checked in one way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from manifests.errors import UsageError

FOR_EVER = float("inf")
Range = tuple[float, float, bool]
"""Least, most, and whether the least itself is allowed."""
Ranges = Mapping[str, Range]
"""Of settings, by name."""

COUNT: Range = (1, 1 << 40, True)
COUNT_OR_NONE: Range = (0, 1 << 40, True)
"""0 stands for none, or for all."""
POSITIVE: Range = (0, 1e12, False)
NOT_NEGATIVE: Range = (0, 1e12, True)
SHARE: Range = (0, 1, True)
SEED: Range = (0, 1 << 62, True)
WORKERS: Range = (1, 4096, True)
"""Threads or processes."""


def check_ranges(kind: str, settings: Any, ranges: Ranges) -> None:
    """Refuse numbers that make no sense.

    Args:
        kind: whose settings they are; what begins with `--` is an option, named as it is
            written: `--encode.`.

    Raises:
        UsageError: a setting is out of its range, or not a number.
    """
    for name, bounds in ranges.items():
        for number in _numbers(getattr(settings, name)):
            if not _is_within(number, bounds):
                raise UsageError(
                    kind + (name.replace("_", "-") if kind.startswith("--") else f" {name}"),
                    f"is {number}",
                    f"It must be {told(bounds, number)}.",
                )


def told(bounds: Range, number: Any = 0) -> str:
    """A range in words; a bound that nobody meets is left out, unless the number does."""
    least, most, is_least_allowed = bounds
    words = f"{'at least' if is_least_allowed else 'more than'} {_shown(least)}"
    is_far = most >= min(COUNT[1], POSITIVE[1]) and not number > most
    return words if is_far else f"{words} and at most {_shown(most)}"


def _numbers(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, (tuple, list)) else (value,)


def _is_within(number: Any, bounds: Range) -> bool:
    least, most, is_least_allowed = bounds
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return False
    return least <= number <= most and (is_least_allowed or number > least)  # false for NaN too


def _shown(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"
