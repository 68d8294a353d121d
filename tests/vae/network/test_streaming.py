"""Pieces in time and tiles in space give the numbers of the whole, in constant memory."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import UsageError
from vae.grid import Extent, Latent, latent_size
from vae.network.model import CausalVAE, VAEConfig


def opened(config):
    """A model whose every path counts: what is closed at the start is open."""
    torch.manual_seed(0)
    model = CausalVAE(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.fixture(
    scope="module", params=[(4, 8), (8, 8), (4, 16)], ids=lambda factors: "{0}x{1}x{1}".format(*factors)
)
def model(request):
    return opened(
        VAEConfig(
            widths=(12, 16, 20), latent_channels=6, factor_t=request.param[0], factor_px=request.param[1]
        )
    )


def clip(*size, seed=0):
    return torch.rand((3, *size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def joined(stream, pieces):
    found = [part for piece in pieces for part in stream.push(piece)] + stream.flush()
    return (
        torch.cat(found, dim=1)
        if isinstance(found[0], torch.Tensor)
        else tuple(torch.cat(part, dim=1) for part in zip(*found, strict=True))
    )


@given(size=st.tuples(st.integers(1, 40), st.integers(1, 100), st.integers(1, 100)), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_any_size_comes_back_exactly_as_large(model, size, seed):
    latent = model.encode(clip(*size, seed=seed))
    assert latent.mean.shape[1:] == latent_size(Extent(*size), model.factors) == latent.validity.shape
    assert model.decode(latent).shape == (3, *size)


@given(cuts=st.sets(st.integers(1, 26), max_size=6), tile_px=st.sampled_from([16, 32, 48]))
@settings(max_examples=6)
def test_pieces_and_tiles_equal_the_whole(model, cuts, tile_px):
    video = clip(27, 70, 90)
    whole = model.encode(video)
    bounds = [0, *sorted(cuts), 27]
    pieces = [video[:, a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    mean, logvar = joined(model.stream(tile_px=tile_px), pieces)
    assert (mean - whole.mean).abs().max() < 1e-5
    assert (logvar - whole.logvar).abs().max() < 1e-5
    back = model.decode(whole)
    cuts_z = [min(cut // model.factors[0] + 1, mean.shape[1]) for cut in bounds[:-1]]
    bounds_z = sorted({0, *cuts_z, mean.shape[1]})
    parts = [whole.mean[:, a:b] for a, b in zip(bounds_z, bounds_z[1:], strict=False)]
    assert (joined(model.decode_stream(whole.extent, tile_px=tile_px), parts) - back).abs().max() < 1e-5


def test_many_short_ones_at_once_equal_each_alone(model):
    videos = torch.stack([clip(5, 33, 41, seed=seed) for seed in range(3)])
    for video, (mean, logvar) in zip(videos, model.encode_many(videos), strict=True):
        alone = model.encode(video)
        assert (alone.mean - mean).abs().max() < 1e-5
        assert (alone.logvar - logvar).abs().max() < 1e-5


def test_a_slice_decodes_as_groups_and_says_so(model):
    latent = model.encode(clip(1 + 4 * model.factors[0], 32, 32))
    part = Latent(
        latent.mean[:, 2:], latent.logvar[:, 2:], Extent(3 * model.factors[0], 32, 32), model.factors, "group"
    )
    assert model.decode(part).shape == (3, 3 * model.factors[0], 32, 32)


def test_a_latent_of_another_shape_is_refused(model):
    latent = model.encode(clip(5, 32, 32))
    with pytest.raises(UsageError, match="is not of this VAE"):
        model.decode(Latent(latent.mean[:, :, :-1], latent.logvar[:, :, :-1], latent.extent, model.factors))


def test_factors_that_are_not_offered_are_refused():
    with pytest.raises(UsageError, match="are not offered"):
        VAEConfig(factor_t=3)


def test_a_large_frame_is_tiled_by_itself():
    model = opened(VAEConfig(widths=(8, 8, 8), latent_channels=4))
    stream = model.stream()
    found = stream.push(clip(1, 1000, 1203))
    assert found[0][0].shape == (4, 1, 125, 151)
    assert len(stream._grid) > 1
    assert (
        found[0][0][:, :, 60:70, 70:80] - model.encode(clip(1, 1000, 1203)).mean[:, :, 60:70, 70:80]
    ).abs().max() < 1e-5


MEMORY = """
import resource, sys, torch
from vae.checkpoint import load_vae
from vae.grid import Extent
torch.set_num_threads(1)
vae, frames = load_vae(), int(sys.argv[1])
stream, kept = vae.stream(), 0
for index in range(frames // 8):
    kept += sum(mean.shape[1] for mean, _ in stream.push(torch.rand(3, 8, 192, 192) * 2 - 1))
decoding = vae.decode_stream(Extent(frames, 192, 192))
for index in range(frames // 4):
    for piece in decoding.push(torch.rand(16, 1, 24, 24)):
        kept += 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.long
def test_memory_does_not_grow_with_length():
    used = [
        int(
            subprocess.run(
                [sys.executable, "-c", MEMORY, str(count)], capture_output=True, text=True, check=True
            ).stdout
        )
        for count in (200, 2000)
    ]
    assert used[1] <= 1.2 * used[0], used
