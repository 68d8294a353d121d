"""Whole sources are held out, with their near-duplicates; windows leave no single layer over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.catalogue import held_out as module
from trainer.data.catalogue.held_out import draw_of, source_of
from trainer.data.samples import Sample, SampleTable
from trainer.data.windows import Cutter


def clips(sources, each):
    return [f"src{source:03d}-{begin * 1000:08d}" for source in range(sources) for begin in range(each)]


def held_out(names, groups, share):
    """The names that are held out."""
    ids = np.array(sorted(names), dtype="S")
    return {bytes(name).decode() for name in ids[module.held_out(ids, groups, share)]}


def plain(names, groups, share):
    """The same, one clip after the other."""
    parent = {source_of(name): source_of(name) for name in names}

    def root(name):
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for group in groups:
        first, *others = sorted({root(source_of(name)) for name in group}) or [""]
        parent.update(dict.fromkeys(others, first))
    members = {}
    for name in sorted(names):
        members.setdefault(root(source_of(name)), []).append(name)
    small = sorted(
        (name for name, own in members.items() if len(own) <= max(1.0, share * len(names))), key=draw_of
    )
    if not small or len(members) == 1:
        return {name for name in names if draw_of(name) < share}
    drawn = [name for name in small if draw_of(name) < share] or small[:1]
    return {clip for name in drawn for clip in members[name]}


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=40, unique=True),
    st.lists(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 9)), max_size=4), max_size=6),
    st.sampled_from([0.05, 0.2, 0.6]),
)
def test_columns_hold_out_what_a_plain_reading_does(clips, groups, share):
    def named(pairs):
        return [f"src{source:03d}-{begin:08d}" if source else f"odd{begin}" for source, begin in pairs]

    names, groups = named(clips), [named(group) for group in groups]
    assert held_out(names, groups, share) == plain(names, groups, share)


def test_no_source_is_on_both_sides():
    names = clips(200, 6)
    aside = held_out(names, [], 0.1)
    assert {source_of(name) for name in aside}.isdisjoint(
        {source_of(name) for name in names if name not in aside}
    )
    assert 0.05 < len(aside) / len(names) < 0.15
    assert aside == held_out(names[::-1], [], 0.1), "in the same run or another"
    more = held_out(names + [f"new{n}-00000000" for n in range(50)], [], 0.1)
    assert aside <= more, "footage that comes later moves none"


def test_sources_that_share_a_near_duplicate_go_together():
    names = clips(60, 2)
    groups = [
        [names[2 * n], names[2 * n + 3]] for n in range(0, 58, 2)
    ]  # of each source and the one after it
    aside = held_out(names, groups, 0.2)
    assert aside and all((a in aside) == (b in aside) for a, b in groups)


def test_a_long_source_is_not_taken_out_of_training():
    long = next(name for name in (f"long{n}" for n in range(1000)) if draw_of(name) < 0.05)
    names = [f"{long}-{n:08d}" for n in range(500)] + clips(40, 2)
    aside = held_out(names, [], 0.05)
    assert aside and len(aside) <= 0.1 * len(names) and not any(name.startswith(long) for name in aside)


@pytest.mark.parametrize("names", [clips(1, 100), clips(3, 1), clips(2, 50)])
def test_few_sources_leave_something_for_both_sides(names):
    aside = held_out(names, [], 0.06)
    assert 0 < len(aside) < len(names) / 2


def test_none_are_held_out_if_none_should_be():
    assert not held_out(clips(5, 2), [], 0.0)


@pytest.mark.parametrize(
    ("layers", "most"), [(9, 4), (13, 4), (5, 4), (7, 3), (9, 8), (8, 4), (10, 4), (3, 2)]
)
def test_windows_cover_a_clip_and_leave_no_single_layer_over(layers, most):
    cutter = Cutter(SampleTable.of([Sample("a", 0, layers, 2, 2)]), (1, 2, 2), most, is_covering=True)
    pieces = int(cutter.pieces[0])
    windows = [cutter.cut(number, np.random.default_rng(0)) for number in range(pieces)]
    shown = [range(window.start, window.start + window.length) for window in windows]
    assert [layer for window in shown for layer in window] == list(range(layers))
    assert max(map(len, shown)) <= most
    assert min(map(len, shown)) >= (2 if most > 2 else 1)
