"""A window of a long clip reads its own slabs, each of which is checked."""

import dataclasses

import numpy as np
import pytest
import torch
from pyarrow.fs import LocalFileSystem

from manifests.errors import IntegrityError
from manifests.store.reading import MemberReader, RangeCache
from manifests.store.shards import TarWriter
from trainer.config import FitConfig
from trainer.data.catalogue.catalog import Catalog, load_catalog, views_of
from trainer.data.loader import PackReader
from trainer.data.samples import Sample, SampleTable
from trainer.presets import preset
from vae.stored import LEAST_SLABS, mean_and_logvar, stored_bytes

SHAPE = (16, 100, 6, 10)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """(reader, tar, mean, logvar) of one clip of a hundred latents."""
    torch.manual_seed(0)
    mean, logvar = (torch.randn(SHAPE).to(torch.bfloat16) for _ in range(2))
    path = tmp_path_factory.mktemp("tars") / "0.tar"
    data, slabs = stored_bytes(mean, logvar)
    with TarWriter(path) as tar:
        tar.add("x.poster.jpg", b"odd")
        member = tar.add("x.latent.safetensors", data)
    row = dict(zip(("num_channels", "latent_t", "latent_h", "latent_w"), SHAPE, strict=True))
    row |= {"num_frames": 397, "height_px": 48, "width_px": 80, "fps": 16.0}
    row |= {"slab_offset": slabs.offset, "slab_crc32": slabs.crc32}
    places = {"x": (str(path), member)}
    catalog = Catalog(
        SampleTable.of([]), [], {"x": row}, places, [], [0.0] * 16, [1.0] * 16, 16, (4, 8, 8), 8, ""
    )
    reader = PackReader(None, catalog, FitConfig())
    reader.members = MemberReader(LocalFileSystem())
    return reader, path, mean, logvar


def sample(start, count):
    return Sample("x", 0, count, 4, 5, start=start, top=1, left=3)


@pytest.mark.parametrize(("start", "count"), [(0, 10), (45, 10), (90, 10), (99, 1), (0, 100), (0, 1)])
def test_a_window_is_what_it_would_be_of_the_whole(long, start, count):
    reader, _, mean, logvar = long
    found = reader.stored(sample(start, count))
    for value, whole in zip(found, (mean, logvar), strict=True):
        assert torch.equal(value, whole[:, start : start + count, 1:5, 3:8].float())


def test_a_window_of_a_tenth_reads_a_tenth(long, monkeypatch):
    reader, _, mean, _ = long
    read, real = [], MemberReader._read
    monkeypatch.setattr(
        MemberReader,
        "_read",
        lambda self, path, member, check: read.append(member.size_bytes) or real(self, path, member, check),
    )
    reader.stored(sample(45, 10))
    assert sum(read) <= 1.2 * 2 * mean[:, :10].nbytes


def test_a_flipped_byte_of_a_slab_is_named_and_harms_no_other(long, tmp_path):
    reader, path, mean, _ = long
    _, member = reader.catalog.latents["x"]
    damaged = tmp_path / "0.tar"
    data = bytearray(path.read_bytes())
    slab = 2 * mean[:, 0].nbytes
    data[member.offset + reader.catalog.clips["x"]["slab_offset"] + 50 * slab + 3] ^= 1
    damaged.write_bytes(data)
    other = PackReader(
        None, dataclasses.replace(reader.catalog, latents={"x": (str(damaged), member)}), FitConfig()
    )
    for cache in (None, RangeCache(tmp_path / "cache", 1 << 20)):
        other.members = MemberReader(LocalFileSystem(), cache)
        assert torch.equal(other.stored(sample(51, 9))[0], reader.stored(sample(51, 9))[0])
        with pytest.raises(IntegrityError, match="slab 5"):
            other.stored(sample(45, 10))


def test_short_clips_are_two_tensors_as_they_were():
    mean = torch.randn(16, LEAST_SLABS - 1, 2, 2).to(torch.bfloat16)
    from safetensors.torch import load

    data, slabs = stored_bytes(mean, mean + 1)
    assert slabs == (None, None) and set(load(data)) == {"mean", "logvar"}
    assert torch.equal(mean_and_logvar(load(data))[1], mean + 1)


def test_packs_of_a_dataset_are_the_same_with_slabs_and_without(dataset):
    config = dataclasses.replace(preset("tiny"), tokens=64, is_tensorboard=False)
    catalog = load_catalog(dataset, views_of(dataset, "default", config), config)
    plain = {name: {**row, "slab_offset": None} for name, row in catalog.clips.items()}
    name = max(catalog.clips, key=lambda name: catalog.clips[name]["latent_t"])
    row = catalog.clips[name]
    assert row["slab_offset"] is not None
    shown = [Sample(name, row["shard"], 3, row["latent_h"], row["latent_w"], start=start) for start in (0, 4)]
    one, other = (
        PackReader(dataset, dataclasses.replace(catalog, clips=clips), config).read(shown, 0)
        for clips in (catalog.clips, plain)
    )
    assert torch.equal(one.clean, other.clean) and not one.corrupt
    assert np.isfinite(one.clean.numpy()).all()
