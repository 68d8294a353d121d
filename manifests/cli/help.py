"""The help of a verb: a first page that fits a screen, and all options under `--help-all`.

A verb says which options a newcomer needs in a class variable `essential`; without one, all of its own
options are on the first page. Groups of settings (nested dataclasses) are always on the second.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro

_BY_NAME = {
    "dataset": "DATASET",
    "data": "DATASET",
    "view": "VIEW",
    "base": "VIEW",
    "footage": "FOOTAGE",
    "prompt": "TEXT",
    "run_folder": "RUN",
    "model_folder": "MODEL",
    "clip": "CLIP",
    "table": "TABLE",
    "sql": "SQL",
    "server": "URL",
    "host": "ADDRESS",
    "model": "NAME",
    "command": "VERB",
    "vae": "FOLDER",
    "mix": "VIEW WEIGHT ...",
    "set": "NAME=VALUE ...",
    "tars": "TAR ...",
    "stage": "STAGE",
}
_BY_TYPE = {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH", bool: "{True,False}"}


@dataclasses.dataclass(frozen=True)
class Shown:
    """A verb's class as its help shows it.

    Attributes:
        kind: for the parser; made for its help alone.
        num_hidden: options that are not on this page.
        examples: lines under the options.
    """

    kind: type
    num_hidden: int
    examples: str


def described(verb: type, hints: Mapping[str, str], is_short: bool) -> Shown:
    """What the help of a verb shows.

    Args:
        hints: what to show as the default of an option, by field name: the value that a preset gives.
        is_short: hide all but the essential options.
    """
    types_of, docs = typing.get_type_hints(verb, include_extras=True), field_docs(verb)
    essential = getattr(verb, "essential", None)
    annotations: dict[str, Any] = {}
    values: dict[str, Any] = {}
    num_hidden = 0
    for item in dataclasses.fields(verb):
        kind = types_of[item.name]
        plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        is_positional = get_origin(kind) is Annotated and tyro.conf.Positional in _markers(kind)
        is_group = dataclasses.is_dataclass(plain)
        is_essential = essential is None or item.name in essential or is_positional
        values |= _default_of(item)
        if is_short and (is_group or not is_essential):
            num_hidden += len(dataclasses.fields(plain)) if is_group else 1
            annotations[item.name] = Annotated[kind, tyro.conf.Suppress]
        elif is_group:
            group = described(plain, {}, is_short=False).kind
            extras = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
            annotations[item.name] = Annotated[(group, *extras)] if extras else group
            values[item.name] = dataclasses.field(default_factory=_converted(item, group))
        else:
            changes: dict[str, Any] = {"help": docs.get(item.name, ""), "metavar": _metavar(item.name, plain)}
            if item.name in hints:
                changes["help_behavior_hint"] = f"({hints[item.name]})"
            elif item.default is True and plain is bool:
                changes["help_behavior_hint"] = "(on; this turns it off)"
            elif item.default is None or item.default in ("", ()):
                changes["help_behavior_hint"] = "(optional)"
            changes = {name: text for name, text in changes.items() if text}
            annotations[item.name] = Annotated[kind, tyro.conf.arg(**changes)] if changes else kind
    text, _, examples = (verb.__doc__ or "").partition("    Example")
    body = {"__annotations__": annotations, "__doc__": text.strip(), "__module__": verb.__module__, **values}
    made: type = dataclasses.dataclass(frozen=True, kw_only=True)(type(verb.__name__, (verb,), body))
    return Shown(made, num_hidden, textwrap.dedent(f"    Example{examples}").rstrip() if examples else "")


def field_docs(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass and of its bases, on one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        [body] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for field, doc in itertools.pairwise(body.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                found.pop(field.target.id, None)
                if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                    found[field.target.id] = " ".join(str(doc.value.value).split())
    return found


def _default_of(item: dataclasses.Field[Any]) -> dict[str, Any]:
    if item.default is not dataclasses.MISSING:
        return {item.name: item.default}
    if item.default_factory is not dataclasses.MISSING:
        return {item.name: dataclasses.field(default_factory=item.default_factory)}
    return {}


def _converted(item: dataclasses.Field[Any], group: type) -> Callable[[], Any]:
    """Makes the default of a group of settings, as an object of the class that its help shows."""
    factory = item.default_factory

    def make() -> Any:
        assert callable(factory)
        value = factory()
        return group(**{part.name: getattr(value, part.name) for part in dataclasses.fields(value)})

    return make


def _markers(kind: Any) -> tuple[Any, ...]:
    found = get_args(kind)[1:]
    return found + tuple(marker for nested in found for marker in getattr(nested, "__metadata__", ()))


def _metavar(name: str, kind: Any) -> str:
    """What stands for a value in the help; empty: as tyro has it."""
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    plain = [option for option in options if option is not type(None)]
    if len(plain) != 1:
        return ""
    if get_origin(plain[0]) is Literal:
        return "{" + ",".join(map(str, get_args(plain[0]))) + "}" if len(options) > 1 else ""
    if name in _BY_NAME and plain[0] not in (int, float, bool):
        return _BY_NAME[name]
    if plain[0] is bool and len(options) == 1:
        return ""
    return _BY_TYPE.get(plain[0], "")
