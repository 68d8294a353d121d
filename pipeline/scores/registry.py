"""Scorers by what `--score.use` says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from manifests.errors import UsageError
from pipeline.scores.heads import Head
from pipeline.scores.protocol import Scorer
from pipeline.scores.words import Words

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_STEP = "Give text, NAME=FOLDER of a head on open_clip, or package.module:Class of your own."


def make_scorer(said: str) -> Scorer:
    """The scorer that is meant; nothing is loaded yet.

    Raises:
        UsageError: there is none, or it is no scorer.
    """
    if said == "text":
        return Words()
    name, is_head, folder = said.partition("=")
    scorer = Head(name, Path(folder)) if is_head else _own(said)
    lacks = [key for key in ("name", "version", "frames", "setup", "score") if not hasattr(scorer, key)]
    if lacks:
        raise UsageError(
            f"--score.use {said}", f"has no {', '.join(lacks)}", "See pipeline/scores/protocol.py."
        )
    is_count = isinstance(scorer.frames, int) and not isinstance(scorer.frames, bool) and scorer.frames > 0
    is_name = isinstance(scorer.name, str) and _NAME.match(scorer.name)
    for key, is_right, rule in (
        ("name", is_name, "lower-case letters, digits and underscores"),
        ("version", isinstance(scorer.version, str), "text"),
        ("frames", is_count, "a whole number from 1 on"),
    ):
        if not is_right:
            found = f"has the {key} {getattr(scorer, key)!r}"
            raise UsageError(f"--score.use {said}", found, f"It is {rule}.")
    return scorer


def make_scorers(said: tuple[str, ...]) -> list[Scorer]:
    """All of them, in order of their names.

    Raises:
        UsageError: two have one name.
    """
    found = sorted((make_scorer(one) for one in said), key=lambda scorer: scorer.name)
    names = [scorer.name for scorer in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError("--score.use", f"names {', '.join(twice)} more than once", "Give each name once.")
    return found


def _own(said: str) -> Scorer:
    module, has_class, name = said.partition(":")
    if not has_class or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise UsageError(f"--score.use {said}", "is no scorer", _STEP)
    try:
        made: Scorer = getattr(importlib.import_module(module), name)()
    except Exception as error:  # whatever a user's own module does
        raise UsageError(f"--score.use {said}", f"cannot be made ({error})", _STEP) from error
    return made
