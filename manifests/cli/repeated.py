"""Options given more than once: lists add up; of others the last one holds, and it is said.

The parser alone would keep the last occurrence of each without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args, get_origin, get_type_hints

from manifests.cli.output import say
from manifests.errors import UsageError


def gathered(words: Sequence[str], parsed: object) -> list[str]:
    """The words with all values of an option of several values where it comes first.

    Args:
        parsed: the options as the parser read them.

    Raises:
        UsageError: one that takes a number of values has more.
    """
    rest = list(words).index("--") if "--" in words else len(words)
    parts = _parts(words[:rest])
    places: dict[str, list[int]] = {}
    for place, part in enumerate(parts):
        if name := _name(part):
            places.setdefault(name, []).append(place)
    gone = set()
    for name, at in places.items():
        if len(at) > 1 and isinstance(value := value_of(parsed, name), tuple):
            most, count = num_values(parsed, name), sum(len(_split(parts[place])) - 1 for place in at)
            if most and count > most:
                problem = f"is given {len(at)} times, with {count} values in all"
                raise UsageError(name, problem, f"Give it once, with {most} values.")
            for place in at[1:]:
                parts[at[0]] = [*_split(parts[at[0]]), *_split(parts[place])[1:]]
                gone.add(place)
        elif len(at) > 1 and value is not True and value is not False:
            say(f"{name} is given {len(at)} times; the last one holds: {' '.join(_split(parts[at[-1]])[1:])}")
    kept = [word for place, part in enumerate(parts) if place not in gone for word in part]
    return [*kept, *words[rest:]]


def value_of(parsed: object, option: str) -> object:
    """What an option such as --plan.shard-s came to; None where there is none of that name."""
    value: object = parsed
    for name in option[2:].replace("-", "_").split("."):
        value = getattr(value, name, None)
    return value


def num_values(parsed: object, option: str) -> int:
    """How many values an option takes, as --blend takes two; 0 for any number of them."""
    *parts, last = option[2:].replace("-", "_").split(".")
    owner: object | None = parsed
    for name in parts:
        owner = getattr(owner, name, None)
    hint = get_type_hints(type(owner)).get(last) if owner is not None else None
    for kind in (hint, *get_args(hint)):
        if get_origin(kind) is tuple and Ellipsis not in get_args(kind):
            return len(get_args(kind))
    return 0


def _parts(words: Sequence[str]) -> list[list[str]]:
    """Each option with its values; words before the first option one by one."""
    parts: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not parts or not parts[-1][0].startswith("--"):
            parts.append([word])
        else:
            parts[-1].append(word)
    return parts


def _name(part: Sequence[str]) -> str:
    """The name of an option, as it is written with dashes; empty for a word that is none."""
    return part[0].partition("=")[0].replace("_", "-") if part[0].startswith("--") else ""


def _split(part: Sequence[str]) -> list[str]:
    """An option's name and its values, however they are joined."""
    name, equals, value = part[0].partition("=")
    return [name, *([value] if equals else []), *part[1:]]
