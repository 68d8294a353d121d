"""The reference of all verbs and options as a page (docs/commands.md), made from their classes."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import tyro

from manifests.cli.frame import verb_class
from manifests.cli.help import field_docs
from manifests.cli.table import ENTRIES, Entry

HEAD = """# Commands

Every verb with all of its options. This page is made by `make docs` from the code; `rushes VERB --help` shows
the most used of them, `--help-all` all.

Exit codes: 0 done, 1 failed, 2 usage, 3 finished with failed items, 4 integrity errors, 130 interrupted.
Trainings that a SIGTERM stops in their steps have saved, and end with 0: the same command goes on.
"""


@dataclass(frozen=True)
class Option:
    """One option of a verb.

    Attributes:
        name: as it is typed, such as `--plan.segment-s`; without dashes if positional.
        default: in plain text; empty if it is required.
        text: what it does.
    """

    name: str
    default: str
    text: str


def options_of(kind: type, prefix: str = "") -> Iterator[Option]:
    """The options of a verb's class, those of its groups of settings behind its own."""
    types_of, docs, groups = typing.get_type_hints(kind, include_extras=True), field_docs(kind), []
    for item in dataclasses.fields(kind):
        hint = types_of[item.name]
        plain, extras = (
            (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
        )
        name = _renamed(extras) or item.name.replace("_", "-")
        if isinstance(plain, type) and dataclasses.is_dataclass(plain):
            groups.append((plain, f"{prefix}{name}.", _made(item)))
            continue
        is_positional = tyro.conf.Positional in extras or any("Positional" in str(extra) for extra in extras)
        is_on = plain is bool and _made(item) is True  # a flag that turns it off
        shown = name.upper() if is_positional else f"--{prefix}{'no-' if is_on else ''}{name}"
        text = docs.get(item.name, "")
        yield Option(shown, _default(_made(item)), f"Turn off: {text}" if is_on else text)
    for group, own_prefix, value in groups:
        for option in options_of(group, own_prefix):
            yield _with_default(option, value, own_prefix)


def _renamed(extras: tuple[Any, ...]) -> str:
    return next((extra.name for extra in extras if getattr(extra, "name", None)), "")


def _made(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else dataclasses.MISSING


def _default(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value in ("", (), [], {}):
        return ""
    if isinstance(value, (list, tuple)):
        return " ".join(str(getattr(part, "name", part)) for part in value)
    return str(getattr(value, "name", value))


def _with_default(option: Option, group: Any, prefix: str) -> Option:
    """The option with the default that this verb's group of settings has, which may be another one."""
    name = option.name.removeprefix(f"--{prefix}").replace("-", "_")
    if "." in name or group is dataclasses.MISSING or not hasattr(group, name):
        return option
    return dataclasses.replace(option, default=_default(getattr(group, name)))


def section(entry: Entry, told: dict[Option, str]) -> str:
    """The part of the page about one verb.

    Args:
        told: settings that are on the page already, and of which verb; those of this one are added.
    """
    kind = verb_class(entry)
    text, _, examples = inspect.cleandoc(kind.__doc__ or "").partition("Example")
    lines = [f"## rushes {entry.name}", "", " ".join(text.split()), ""]
    if examples:
        words = " ".join(examples.removeprefix("s").removeprefix(":").split())
        lines += ["```", *re.split(r" (?=rushes \S|torchrun )(?<!-m )", words), "```", ""]
    lines += ["| option | default | what it does |", "|---|---|---|"]
    elsewhere: dict[str, list[str]] = {}
    for option in options_of(kind):
        if "." in option.name and option in told:
            groups = elsewhere.setdefault(told[option], [])
            group = f"`{option.name.split('.')[0]}.*`"
            groups += [] if group in groups else [group]
            continue
        told.setdefault(option, entry.name)
        cells = (f"`{option.name}`", option.default, option.text)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    for verb, groups in elsewhere.items():
        lines += ["", f"And, as of [rushes {verb}](#rushes-{verb}): {', '.join(groups)}."]
    return "\n".join(lines)


def commands_page() -> str:
    """The whole page."""
    told: dict[Option, str] = {}
    return "\n\n".join([HEAD.strip(), *(section(entry, told) for entry in ENTRIES)]) + "\n"
