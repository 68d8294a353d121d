"""Numbers that make no sense are refused for every verb, with the option's name."""

from __future__ import annotations

import dataclasses
import math
import typing

import pytest

from manifests import cli
from manifests.cli.frame import main, verb_class
from manifests.cli.ranges import COUNT, SHARE, check_ranges, told
from manifests.cli.table import VERBS
from manifests.errors import UsageError
from trainer.config import FitConfig


def is_number(hint: object) -> bool:
    parts = typing.get_args(hint)
    return hint in (int, float) or (str(hint) != "bool" and any(is_number(part) for part in parts))


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_numeric_option_has_a_range(name):
    """Settings of a run are checked where they come together (trainer/config.py)."""
    kind = verb_class(VERBS[name])
    hints = typing.get_type_hints(kind, include_extras=True)
    numbers = {
        item.name
        for item in dataclasses.fields(kind)
        if is_number(hints[item.name]) and "Literal" not in str(hints[item.name])
    }
    checked = set(getattr(kind, "ranges", {}))
    of_the_run = {item.name for item in dataclasses.fields(FitConfig)}
    assert numbers - checked - (of_the_run if name in ("fit", "plan-training") else set()) == set()
    assert checked <= {item.name for item in dataclasses.fields(kind)}


@pytest.mark.parametrize(
    "words",
    [
        ("make-films", "OUT", "--films", "-1"),
        ("make-films", "OUT", "--scale", "nan"),
        ("ls", "nowhere", "--limit", "-1"),
        ("sample", "nowhere", "--out", "a.mp4", "--threads", "-3"),
        ("sample", "nowhere", "--out", "a.mp4", "--seed", "99999999999999999999999"),
        ("sample", "nowhere", "--out", "a.mp4", "--fps", "1e-5"),
        ("fit", "--data", "nowhere", "--workers", "0"),
        ("fit", "--data", "nowhere", "--lr", "nan"),
        ("plan-training", "--data", "nowhere", "--gpus", "-3"),
        ("ingest", "nowhere", "--out", "OUT", "--encode.audit-share", "7"),
        ("ingest", "nowhere", "--out", "OUT", "--caption.batch", "0"),
        ("evaluate", "nowhere", "--prompts", "1"),
        ("train-vae", "OUT", "--per-file", "0"),
    ],
)
def test_numbers_without_sense_are_refused_by_name(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments=words) == cli.USAGE
    error = capsys.readouterr().err
    assert words[-2].removeprefix("--") in error and "It must be" in error, error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "x", True, [0.5, 2]])
def test_what_is_not_within_is_refused(value):
    holder = type("Holder", (), {"share": value})
    with pytest.raises(UsageError, match="share: is "):
        check_ranges("--", holder, {"share": SHARE})


def test_ranges_in_words():
    assert told(COUNT) == "at least 1"
    assert told((0, 100_000, False)) == "more than 0 and at most 100,000"
    assert told((0.1, 1, True)) == "at least 0.1 and at most 1"
