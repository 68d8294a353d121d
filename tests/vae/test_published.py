"""Tiny models of the real diffusers classes, saved and loaded from disk: no frame dropped, no border cropped,
and streaming equal to their own encode.
"""

import pytest
import torch

from manifests.errors import UsageError
from media.errors import MediaError
from tests.vae.tiny_published import TINY, save_tiny
from vae.checkpoint import load_vae
from vae.grid import Extent, latent_size, validity


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save_tiny(name, tmp_path_factory.mktemp(name)) for name in TINY}


@pytest.fixture(params=TINY)
def vae(request, folders):
    return load_vae(folders[request.param])


def clip(*size, seed=0):
    return torch.rand((3, *size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("size", [(1, 9, 33), (2, 60, 68), (4, 61, 40), (7, 40, 61), (15, 32, 32)])
def test_any_size_comes_back_and_its_cells_are_covered(vae, size):
    video = clip(*size)
    latent = vae.encode(video)
    assert (
        latent.mean.shape
        == (vae.latent_channels, *latent_size(Extent(*size), vae.factors))
        == latent.logvar.shape
    )
    assert latent.validity.shape == latent.mean.shape[1:]
    assert torch.equal(latent.validity, validity(Extent(*size), vae.factors))
    assert vae.decode(latent).shape == video.shape
    assert latent.fingerprint == vae.fingerprint != ""


@pytest.mark.parametrize("where", [(6, 20, 20), (6, 39, 60), (0, 0, 0), (5, 39, 0)])
def test_no_frame_and_no_border_is_ignored(vae, where):
    video = clip(7, 40, 61)
    changed = video.clone()
    changed[:, where[0], where[1], where[2]] += 2.0
    assert (vae.encode(changed).mean - vae.encode(video).mean).abs().max() > 0


def test_causality_is_as_declared(vae):
    factor = vae.factors[0]
    video = clip(1 + 4 * factor, 64, 64)
    whole = vae.encode(video).mean
    prefix = vae.encode(video[:, : 1 + factor]).mean
    apart = float((whole[:, :2] - prefix).abs().max())
    assert (apart < 1e-5) == vae.is_strictly_causal, apart


@pytest.mark.parametrize("name", ["wan21", "wan22"])
@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 11], [2, 5, 6, 7, 12]])
def test_wan_streams_to_what_diffusers_encodes(folders, name, cuts):
    vae = load_vae(folders[name])
    video = clip(13, 32, 48)
    with torch.no_grad():
        expected = vae.model.encode(video[None]).latent_dist.mean[0]
        expected_pixels = vae.model.decode(expected[None]).sample[0]
    stream, pieces = vae.stream(), []
    other = vae.stream()  # two at once do not disturb each other
    for begin, end in zip([0, *cuts], [*cuts, 13], strict=True):
        pieces += stream.push(video[:, begin:end])
        other.push(video[:, begin:end].flip(1))
    pieces += stream.flush()
    mean = torch.cat([piece[0] for piece in pieces], dim=1)
    assert (mean - expected).abs().max() < 1e-5
    decoding, frames = vae.decode_stream(Extent(13, 32, 48)), []
    for index in range(mean.shape[1]):
        frames += decoding.push(mean[:, index : index + 1])
    assert (torch.cat([*frames, *decoding.flush()], dim=1) - expected_pixels).abs().max() < 1e-5


def test_what_cannot_be_done_exactly_is_refused(folders, tmp_path, monkeypatch):
    from vae.checkpoint import load_own
    from vae.published import adapter

    with pytest.raises(UsageError, match="not a causal-vae"):
        load_own(folders["ltx"])
    monkeypatch.setattr(adapter, "MAX_WHOLE_PIXELS", 1000)
    with pytest.raises(MediaError, match="one piece"):  # of that clip alone: the others go on
        load_vae(folders["ltx"]).stream().push(clip(9, 32, 32))
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKLMagvit"}')
    with pytest.raises(UsageError, match="no adapter"):
        load_vae(tmp_path)


def test_other_settings_are_another_fingerprint(folders):
    assert len({load_vae(folder).fingerprint for folder in folders.values()}) == len(folders)
