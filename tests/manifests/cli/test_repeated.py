"""An option that is given more than once loses nothing without a word."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from manifests.cli.frame import _parsed
from manifests.cli.repeated import gathered
from manifests.cli.table import Entry
from manifests.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Part:
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A verb."""

    several: tuple[str, ...] = ()
    pair: tuple[str, str] | None = None
    one: int = 0
    is_dry: bool = False
    part: Part = field(default_factory=Part)


def asked(*words):
    return _parsed(Entry("asked", "tests", "asked", f"{__name__}:Asked", "", ""), list(words))


@pytest.mark.parametrize(
    "words",
    [
        ("--several", "a", "b", "--several", "c"),
        ("--several=a", "--one", "2", "--several", "b", "c"),
        ("--several", "a", "--is-dry", "--several=b", "--several=c"),
    ],
)
def test_values_of_a_list_add_up(words):
    assert asked(*words).several == ("a", "b", "c")


def test_of_a_part_too():
    assert asked("--part.names", "a", "--part.names", "b").part.names == ("a", "b")


def test_of_one_value_the_last_holds_and_it_is_said(capsys):
    assert asked("--one", "2", "--one=3").one == 3
    assert "--one is given 2 times; the last one holds: 3" in capsys.readouterr().err


def test_two_pairs_are_not_taken_for_one(capsys):
    with pytest.raises(UsageError, match="--pair: is given 2 times, with 4 values"):
        asked("--pair", "a", "b", "--pair", "c", "d")


def test_what_comes_after_two_dashes_is_not_read():
    words = ["--several", "a", "--", "--several", "b"]
    assert gathered(words, Asked(several=("a",))) == words
