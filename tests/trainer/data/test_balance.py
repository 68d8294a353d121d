"""Weights of clips from columns or a query, and what an epoch then shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from manifests.errors import UsageError
from manifests.sql import predicates, queries
from manifests.tables import scans
from manifests.views import View
from trainer.data.catalogue.balance import MOST, _by_value, balance
from trainer.data.catalogue.catalog import load_catalog
from trainer.data.curriculum import Curriculum, stages_of
from trainer.presets import preset


def clips_of(dataset):
    view = View.load(dataset)
    rows = scans.table(dataset, "clips", view.column("preview")).to_pylist()
    return view, {row["clip_id"]: row for row in rows}


def test_values_of_columns_are_shown_equally_often(dataset):
    view, rows = clips_of(dataset)
    names = sorted(rows)
    found = balance(dataset, view, "kind", names)
    shown = Counter[str]()
    for name in names:
        shown[rows[name]["kind"]] += found[name]
    counts = Counter(row["kind"] for row in rows.values())
    assert len(set(counts.values())) > 1 and np.ptp(list(shown.values())) < 1e-6
    assert np.mean(list(found.values())) == pytest.approx(1)
    both = balance(dataset, view, "kind, camera", names)
    assert both != found and max(both.values()) <= MOST


def test_a_query_gives_weights_and_what_it_leaves_out_is_not_shown(dataset):
    view, rows = clips_of(dataset)
    query = (
        "SELECT clip_id, CASE WHEN fps > 0 THEN 2.0 ELSE 1.0 END AS weight FROM clips WHERE kind = 'video'"
    )
    config = replace(preset("tiny"), balance=query, held_out=0.0)
    catalog, plain = (
        load_catalog(dataset, [view], one) for one in (config, replace(preset("tiny"), held_out=0.0))
    )
    assert {rows[name]["kind"] for name in catalog.table.clip_ids} == {"video"}
    assert catalog.digest != plain.digest


def test_clips_that_a_query_forgets_are_told(dataset, capsys):
    view, rows = clips_of(dataset)
    query = "SELECT clip_id, 1 AS weight FROM clips ORDER BY clip_id LIMIT 2"
    found = balance(dataset, view, query, sorted(rows))
    assert sum(value > 0 for value in found.values()) == 2
    assert f"{len(rows) - 2} of {len(rows)} clips have weight 0" in capsys.readouterr().err


def test_licences_are_columns_of_clips(copy):
    """As a list says them of its files."""
    view, rows = clips_of(copy)
    assert list(balance(copy, view, "licence", sorted(rows)).values()) == pytest.approx([1.0] * len(rows))
    asked = queries.sql(copy, "SELECT clip_id, licence, origin FROM clips").to_pylist()
    assert sorted(row["clip_id"] for row in asked) == sorted(rows)
    for query in ("SELECT c.clip_id, c.licence, c.origin FROM clips c", "SELECT clips.licence FROM clips"):
        assert queries.sql(copy, query).num_rows == len(rows), "by another name of the table too"
    own = queries.sql(copy, "SELECT clip_id, licence, origin FROM clips JOIN sources USING (source_id)")
    assert {tuple(row.items()) for row in own.to_pylist()} == {tuple(row.items()) for row in asked}
    for where, count in (("coalesce(licence, '') <> 'x'", len(rows)), ("origin = 'x'", 0)):
        assert replace(view, where=where).clips(copy).num_rows == count


def test_an_epoch_shows_a_clip_as_often_as_its_weight_says(dataset):
    view, rows = clips_of(dataset)
    name = sorted(name for name, row in rows.items() if row["kind"] == "video")[0]
    query = f"SELECT clip_id, CASE WHEN clip_id = '{name}' THEN 3.0 ELSE 1.0 END AS weight FROM clips"
    config = replace(preset("tiny"), balance=query, held_out=0.0)
    catalog = load_catalog(dataset, [view], config)
    curriculum = Curriculum(stages_of(catalog.table, config, catalog.factors[0]))
    shown, epochs = Counter[str](), 12
    for step in range(100_000):
        epoch, packs = curriculum.at(step)
        if epoch >= epochs:
            break
        shown.update(sample.clip_id for pack in packs for sample in pack if not sample.start)
    others = [count for clip, count in shown.items() if clip != name]
    assert shown[name] / np.mean(others) == pytest.approx(3, rel=0.35)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("SELECT clip_id FROM clips", "gives no weight"),
        ("SELECT 1 AS weight", "gives no clip_id"),
        ("SELECT [clip_id] AS clip_id, 1 AS weight FROM clips", "gives no clip_id"),
        ("SELECT clip_id, -1.0 AS weight FROM clips", "the weight -1.0. A weight is"),
        ("SELECT clip_id, 'nan'::DOUBLE AS weight FROM clips", "the weight nan. A weight is"),
        ("SELECT clip_id, NULL AS weight FROM clips", "the weight null. A weight is"),
        ("SELECT clip_id, 0 AS weight FROM clips", "gives 0 for all"),
        ("SELECT 'x' || clip_id AS clip_id, 1 AS weight FROM clips", "gives 0 for all"),
        ("SELECT clip_id, 'a' AS weight FROM clips", "the weight a. A weight is"),
        ("SELECT clip_id, random() AS weight FROM clips", "another answer each time .random"),
        ("SELECT clip_id, year(now()) AS weight FROM clips", "another answer each time .now"),
        ("SELECT clip_id, 1 AS weight FROM clips USING SAMPLE 50%", "another answer each time .SAMPLE"),
        ("SELECT clip_id, 1 AS weight FROM clips LIMIT 2", "another answer each time .LIMIT without ORDER"),
        ("SELECT any_value(clip_id) AS clip_id, 1 AS weight FROM clips GROUP BY shard", "any_value without"),
        ("SELECT DISTINCT ON (shard) clip_id, 1 AS weight FROM clips", "DISTINCT ON without ORDER BY"),
        ("SELECT clip_id, row_number() OVER () AS weight FROM clips", "row_number without ORDER BY"),
        ("SELECT clip_id, 1 AS weight FROM clips UNION ALL SELECT clip_id, 1 FROM clips", "more than once"),
        ("SELECT * FROM query('SELECT clip_id, random() AS weight FROM clips')", "asks in a text .query"),
        ("no_such_column", "no_such_column"),
        ("DELETE FROM clips", "DELETE"),
        ("SELECT clip_id, 1 / 0 AS weight FROM clips", "A weight is"),
    ],
)
def test_what_is_no_weighting_is_refused(dataset, said, why):
    view, rows = clips_of(dataset)
    with pytest.raises(UsageError, match=why):
        balance(dataset, view, said, sorted(rows))


@pytest.mark.parametrize(
    ("common", "rare"), [(17000, 1000), (50000, 3000), (100, 1), (1000, 1), (10, 10), (1, 0)]
)
def test_no_clip_is_shown_more_than_so_many_times_as_often(common, rare):
    values = {f"c{n}": "common" for n in range(common)} | {f"r{n}": "rare" for n in range(rare)}
    found = np.array(list(_by_value(values, list(values)).values()))
    assert found.mean() == pytest.approx(1) and found.max() <= MOST + 1e-9
    if rare and common / rare < MOST:
        assert found[:common].sum() == pytest.approx(found[common:].sum())


def test_weights_of_any_size_are_taken(dataset):
    view, rows = clips_of(dataset)
    for size in ("1e308", "1e-300"):
        found = balance(dataset, view, f"SELECT clip_id, {size}::DOUBLE AS weight FROM clips", sorted(rows))
        assert set(found.values()) == {1.0}


def test_a_text_that_would_be_run_is_seen_in_whatever_it_is_wrapped():
    for name in ("query", "json_execute_serialized_sql"):
        with pytest.raises(UsageError, match=f"asks in a text .{name}"):
            predicates.check_settled(f"SELECT 1 FROM {name}('select random()')", "a view")
