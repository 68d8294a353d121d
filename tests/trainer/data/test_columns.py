"""Facts of clips in columns: what a plain reading of the tables gives, in a few hundred bytes a clip."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.tables import scans
from manifests.views import View
from trainer.config import FitConfig
from trainer.data.catalogue.catalog import load_catalog
from trainer.data.catalogue.gathering import members_of
from trainer.data.columns import Lists, Names, ids_of, places


def test_a_catalogue_says_what_the_tables_say(dataset):
    view = View.load(dataset)
    catalog = load_catalog(dataset, [view], FitConfig())
    rows = {row["clip_id"]: row for row in scans.table(dataset, "latents", view.column("latent")).to_pylist()}
    own = set(catalog.clips)
    assert own == set(catalog.table.clip_ids) | {sample.clip_id for sample in catalog.held_out}
    for name, row in catalog.clips.items():
        known = rows[name] | {"slab_crc32": list(rows[name]["slab_crc32"] or [])}
        assert {field: list(value) if field == "slab_crc32" else value for field, value in row.items()} == {
            field: known[field] for field in row
        }
    places_of = {
        column: {
            member.key: (path, member)
            for path, members in scans.members(dataset, view.column(column)).values()
            for member in members
            if member.name.endswith(".safetensors")
        }
        for column in ("latent", "text")
    }
    assert dict(catalog.latents) == {name: places_of["latent"][name] for name in own}
    assert dict(catalog.views[0].texts) == {name: places_of["text"][name] for name in own}
    said = {}
    for row in scans.table(dataset, "text", view.column("text")).to_pylist():
        said.setdefault(row["clip_id"], []).append((row["caption_id"], row["kind"], row["source"]))
    assert dict(catalog.views[0].captions) == {name: said[name] for name in own}
    with pytest.raises(KeyError):
        catalog.clips["nobody-00000000"]
    with pytest.raises(KeyError):
        catalog.latents["0"]


def test_a_clip_that_a_column_lacks_has_no_member(dataset):
    view = View.load(dataset)
    arrays, told = members_of(dataset, view, "latent", np.array([b"0-nobody"]))
    assert arrays["tar"].tolist() == [-1] and told["tars"]


@given(st.lists(st.text("abcdef-0123456789", min_size=1, max_size=9), min_size=1, max_size=30))
def test_names_as_bytes_are_the_names(texts):
    values = ids_of(pa.chunked_array([texts[:7], texts[7:]], pa.string()))
    assert list(Names(values)) == texts
    assert list(Names(values).take(np.arange(len(texts))[::2])) == texts[::2]
    ordered = np.unique(values)
    names = Names(ordered)
    assert [names[names.find(text)] for text in texts] == texts
    for odd in ("", "zz", "a" * 30):
        if odd not in texts:
            with pytest.raises(KeyError):
                names.find(odd)
    at, is_known = places(ordered, values)
    assert is_known.all() and (ordered[at] == values).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), max_size=30))
def test_lists_keep_their_order(pairs):
    rows = np.array([row for row, _ in pairs], dtype=np.int64)
    found = Lists.of(rows, 6, np.array([value for _, value in pairs], dtype=np.int64))
    for row in range(6):
        assert found[row].tolist() == [value for own, value in pairs if own == row]
