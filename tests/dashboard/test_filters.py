"""Filters: what a page shows equals a plain reading of the tables, through the URL and back."""

import contextlib
import math
import shutil
from collections import Counter
from dataclasses import replace
from urllib.parse import parse_qsl

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dashboard.asking.filters import Filters, phrases
from dashboard.asking.scope import Scopes
from dashboard.index.fields import FIELDS, FLAG, MEASURE, WORDS
from dashboard.index.index import Index
from dashboard.pages.clips import saved_as, some_clips
from dashboard.pages.map import POINT, embedded, points
from dashboard.site import Site
from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.tables import records, scans
from manifests.views import View
from manifests.writing.commit import Account, ShardCommit

OF_CLIPS = {
    "aspect": lambda row: row["width_px"] / row["height_px"],
    "pixels": lambda row: row["width_px"] * row["height_px"],
    "seconds": lambda row: row["end_s"] - row["start_s"],
}


@pytest.fixture(scope="module")
def asked(eventful, tmp_path_factory):
    """(site, scope, rows of the view, captions of its version, latents)."""
    index = Index(eventful, tmp_path_factory.mktemp("index"))
    view = View.load(eventful)
    captions = scans.table(eventful, "captions", view.column("caption")).to_pylist()
    latents = scans.table(eventful, "latents", view.column("latent")).to_pylist()
    yield (
        Site(eventful, index),
        Scopes(index).named("default"),
        view.clips(eventful).to_pylist(),
        captions,
        latents,
    )
    index.close()


def value_of(row: dict, name: str):
    return OF_CLIPS.get(name, lambda row: row[name])(row)


def holds(filters: Filters, row: dict, captions: list[dict], latents: list[dict]) -> bool:
    """Whether a clip is meant, by a plain reading of what the URL says."""

    def fits(name: str, value) -> bool:
        if FIELDS[name].kind == MEASURE:
            low, high = filters.ranges[name]
            return value is not None and low <= value < high
        words = filters.words[name]
        if FIELDS[name].kind == FLAG:
            return str(value).lower() in words
        return bool(set(value or ()) & set(words)) if FIELDS[name].kind == WORDS else value in words

    names = [*filters.words, *filters.ranges]
    for name in names:
        if FIELDS[name].table == "clips" and not fits(name, value_of(row, name)):
            return False
    of_captions = {"caption_kind": "kind", "words": "num_words", "status": "status", "reasons": "reasons"}
    said = [name for name in names if FIELDS[name].table == "captions"]
    if (said or filters.text) and not any(
        all(fits(name, caption[of_captions[name]]) for name in said)
        and all(word in caption["text"].lower() for word in filters.text.lower().split())
        for caption in captions
    ):
        return False
    stored = [name for name in names if FIELDS[name].table == "latents"]
    of_latents = {
        "tokens": lambda row: row["latent_t"] * row["latent_h"] * row["latent_w"],
        "psnr": lambda row: row["audit_psnr_db"],
        "audit_flag": lambda row: (row["audit_flag"] or "").split(","),
    }
    return not stored or any(all(fits(name, of_latents[name](item)) for name in stored) for item in latents)


words = st.dictionaries(
    st.sampled_from(["kind", "camera", "palette", "starts_with", "status", "caption_kind"]),
    st.lists(
        st.sampled_from(
            ["video", "image", "static", "zoom_in", "pan_left", "unknown", "blue", "green", "grey", "cut"]
            + ["source_start", "accepted", "rejected", "dense", "short", "o'clock\"; --"]
        ),
        min_size=1,
        max_size=3,
        unique=True,
    ).map(tuple),
    max_size=2,
)
limit = st.one_of(st.floats(0, 400, allow_nan=False), st.sampled_from([0.0, 0.05, 1.0, 25.0]))
ranges = st.dictionaries(
    st.sampled_from([name for name, known in FIELDS.items() if known.kind == MEASURE]),
    st.tuples(st.one_of(st.just(-math.inf), limit), st.one_of(st.just(math.inf), limit)),
    max_size=2,
)
flags = st.dictionaries(
    st.sampled_from(["has_audio", "is_vfr"]),
    st.sampled_from([("true",), ("false",), ("false", "true")]),
    max_size=1,
)
filters_ = st.builds(
    Filters,
    words=st.builds(lambda one, other: {**one, **other}, words, flags),
    ranges=ranges,
    text=st.sampled_from(["", "ball", "large ball", "blue", "purple star"]),
    sort=st.sampled_from(["", "motion", "-seconds", "random:3", "words", "-psnr"]),
)


@settings(
    max_examples=150,
    deadline=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(filters=filters_)
def test_filters_round_trip_and_equal_a_plain_reading(asked, filters):
    site, scope, rows, captions, latents = asked
    assert Filters.parse(parse_qsl(filters.query(), keep_blank_values=True)) == filters
    expected = {
        row["clip_id"]
        for row in rows
        if holds(
            filters,
            row,
            [item for item in captions if item["clip_id"] == row["clip_id"]],
            [item for item in latents if item["clip_id"] == row["clip_id"]],
        )
    }
    assert site.kept.number(scope, filters) == len(expected)
    found, after = list[str](), filters
    while True:  # page by page: nothing twice, nothing left out
        page, key = some_clips(site, scope, after, 4)
        found += [row["clip_id"] for row in page]
        if not key:
            break
        after = Filters.parse(parse_qsl(filters.query(after=key)))
    assert len(found) == len(set(found)) and set(found) == expected
    measure = filters.sort.lstrip("-")
    if measure in ("motion", "seconds"):
        by_id = {row["clip_id"]: value_of(row, measure) for row in rows}
        values = [by_id[clip_id] for clip_id in found]
        assert values == sorted(values, reverse=filters.sort.startswith("-"))
    kept = site.index.rows(f"{scope.tables} SELECT count(*) AS n FROM clips WHERE {saved_as(filters)}")
    assert kept[0]["n"] == len(expected)


def test_facets_and_histograms_count_what_is_meant(asked):
    site, scope, rows, _, _ = asked
    filters = Filters.parse([("motion", "0.01.."), ("kind", "video")])
    meant = [row for row in rows if row["kind"] == "video" and row["motion"] >= 0.01]
    with site.kept.counting(scope, filters) as counting:
        number, told, drawn = counting.counted(["seconds", "fps"])
    found = {name: dict(words) for name, words in told.items()}
    assert number == len(meant)
    for name in ("camera", "starts_with"):
        assert dict(found[name]) == {
            word: sum(row[name] == word for row in meant) for word in {row[name] for row in meant} if word
        }
    others = [row for row in rows if row["motion"] >= 0.01]  # its own filter does not narrow a facet
    assert dict(found["kind"]) == {
        word: sum(row["kind"] == word for row in others) for word in {row["kind"] for row in others}
    }
    colours = {colour for row in meant for colour in row["palette"]}
    assert set(found["palette"]) == colours
    made = {histogram.field.name: histogram for histogram in drawn}
    assert sum(made["seconds"].whole) == len(rows) and sum(made["seconds"].chosen) == len(meant)


@pytest.mark.parametrize(
    "given",
    [("nosuch", "1"), ("motion", "0.3"), ("motion", "a..b"), ("motion", "nan..1"), ("sort", "nosuch")]
    + [("has_audio", "yes"), ("after", "x"), ("after", "[[],1]"), ("shard", "-1"), ("outliers", "words")],
)
def test_what_is_no_filter_is_refused_with_what_there_is(asked, given):
    site, scope, *_ = asked
    with pytest.raises(UsageError):
        filters = Filters.parse([given])
        some_clips(site, scope, filters)


def goes_around(line: list[tuple[float, float]], x: float, y: float) -> bool:
    """Whether a ray to the right crosses the line an odd number of times."""
    crossed = False
    for (x0, y0), (x1, y1) in zip(line, [*line[1:], line[0]], strict=True):
        if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
            crossed = not crossed
    return crossed


# Not on the thousandths where the places of clips lie, so that no clip is just on the line.
CORNER = st.tuples(*[st.integers(0, 1000).map(lambda value: value / 1000 + 0.0005)] * 2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.lists(CORNER, min_size=3, max_size=12))
def test_a_line_around_places_means_the_clips_in_it(mapped, line):
    site, scope, places = mapped
    filters = Filters.parse([("lasso", ";".join(f"{x},{y}" for x, y in line))])
    expected = {clip_id for clip_id, (x, y) in places.items() if goes_around(line, x, y)}
    rows, _ = some_clips(site, scope, filters, 10_000)
    assert {row["clip_id"] for row in rows} == expected
    with site.kept.counting(scope, filters) as counting:
        assert counting.counted([])[0] == len(expected)


@pytest.fixture(scope="module")
def mapped(eventful, tmp_path_factory):
    """(site, scope of the view with a map, places by clip)."""
    index = Index(eventful, tmp_path_factory.mktemp("index"))
    kept = View.load(eventful, "mapped").kept(eventful)
    rows = scans.table(eventful, "map").to_pylist()
    places = {row["clip_id"]: (row["x"], row["y"]) for row in rows if row["clip_id"] in kept}
    yield Site(eventful, index), Scopes(index).named("mapped"), places
    index.close()


def test_each_clip_of_a_map_is_five_bytes(mapped):
    site, scope, places = mapped
    found = np.frombuffer(points(site, scope, Filters(), "camera"), POINT)
    assert len(found) == len(places) and POINT.itemsize == 5
    told = sorted((int(x), int(y)) for x, y in zip(found["x"], found["y"], strict=True))
    wanted = sorted((round(x * 65535), round(y * 65535)) for x, y in places.values())
    assert np.abs(np.array(told) - np.array(wanted)).max() <= 1
    data = embedded(site, scope, Filters(), "camera", next(iter(places)))
    assert data["count"] == len(places) and data["mark"] == list(next(iter(places.values())))
    cameras = dict(site.index.tuples(f"{scope.tables} SELECT camera, count(*) FROM clips GROUP BY 1"))
    for place, word in enumerate(data["words"]):
        assert (found["class"] == place).sum() == cameras[word]


@pytest.mark.parametrize("lasso", ["0,0;1,1", "0,0;1,1;a,b", "0,0;1,1;9,9", "nan,0;1,1;0,1", "0;1;2"])
def test_what_is_no_line_is_refused(lasso):
    with pytest.raises(UsageError, match="line"):
        Filters.parse([("lasso", lasso)])


def test_who_counts_goes_on_with_the_codes_it_began_with(eventful, tmp_path):
    """A commit that comes while it counts makes other codes of the same words."""
    folder = tmp_path / "ds"
    shutil.copytree(eventful.uri, folder)
    index = Index(Dataset(str(folder)), tmp_path / "index")
    site, column = Site(index.dataset, index), Column("caption", "manywords")
    kinds = {0: ["short"], 1: ["dense", "dense"]}  # the newer shard has the more frequent word

    def commit(shard: int) -> None:
        clips = records.rows_of_shard(eventful, "clips", View.load(eventful).column("preview"), 0)[:2]
        rows = [
            {"caption_id": f"{shard}{at}", "clip_id": clips[at]["clip_id"], "shard": shard, "kind": kind}
            | {"text": "a ball", "status": "accepted", "source": "x", "num_words": 2}
            for at, kind in enumerate(kinds[shard])
        ]
        with ShardCommit(index.dataset, column, shard, 0) as made:
            made.commit({"captions": rows}, Account(len(rows), len(rows), 0, 0))

    commit(0)
    index.wait(10)
    scope = replace(Scopes(index).named("default"), out="")
    scope = replace(scope, columns={**scope.columns, "caption": str(column)})
    with site.kept.counting(scope, Filters()) as counting:
        commit(1)
        index.wait(10)
        index.coded("captions", str(column))
        assert dict(counting.counted([])[1]["caption_kind"]) == {"short": 1}
    with site.kept.counting(scope, Filters()) as counting:
        assert dict(counting.counted([])[1]["caption_kind"]) == {"short": 1, "dense": 2}
    index.close()


@pytest.mark.parametrize("given", [[("lasso", "0,0;1,1e-320;0.5,0.5")], [("after", '[1e400,"a"]')]])
def test_odd_numbers_in_the_address_are_answered_or_refused(mapped, given):
    site, scope, _ = mapped
    with contextlib.suppress(UsageError):
        some_clips(site, scope, Filters.parse(given))


def test_a_chosen_word_is_counted_though_it_has_no_code(asked, monkeypatch):
    monkeypatch.setattr("dashboard.index.coding.MOST_WORDS", 1)
    monkeypatch.setattr("dashboard.index.coding.MOST_BITS", 1)
    site, _, rows, *_ = asked
    index = Index(site.dataset, site.index.folder.with_name("few"))
    index.wait(10)
    scope = Scopes(index).named("default")
    for name in ("camera", "palette"):
        have = Counter(
            word for row in rows for word in ([row[name]] if name == "camera" else row[name] or ())
        )
        for word, count in have.items():
            with Site(site.dataset, index).kept.counting(scope, Filters.parse([(name, word)])) as counting:
                assert dict(counting.counted([])[1][name])[word] == count, word
    index.close()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('red "a ball" sky', ["red", "a ball", "sky"]),
        ('"red ball', ["red", "ball"]),
        ('red"', ["red"]),
        ('" "" red', ["red"]),
    ],
)
def test_a_quote_that_is_not_closed_is_no_letter(text, found):
    assert phrases(text) == found
