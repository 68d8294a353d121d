import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vae.checkpoint import load_own
from vae.grid import Extent, latent_size, pad_to_grid, validity
from vae.network.model import CausalVAE
from vae.pixels import as_float
from vae.training.clips import world_clip
from vae.training.losses import psnr_db


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = CausalVAE().eval().requires_grad_(False)
    for parameter in made.parameters():  # open what is closed at the start, so that every path counts
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return made


sizes = st.tuples(st.integers(1, 14), st.integers(1, 40), st.integers(1, 40))


@given(size=sizes, seed=st.integers(0, 99))
@settings(max_examples=25)
def test_any_size_comes_back_exactly_as_large(model, size, seed):
    video = torch.rand((3, *size), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    latent = model.encode(video)
    assert latent.mean.shape[1:] == latent_size(latent.extent)
    assert model.decode(latent).shape == video.shape


@given(size=sizes)
def test_validity_is_the_share_of_real_pixels(size):
    share = validity(Extent(*size))
    assert share.shape == latent_size(Extent(*size))
    assert 0 < float(share.min()) <= float(share.max()) <= 1
    per_frame = (share[0] * 64).sum()
    assert per_frame == pytest.approx(size[1] * size[2], rel=1e-5)
    assert float((share[1:, 0, 0] / share[0, 0, 0] * 4).sum()) == pytest.approx(size[0] - 1, abs=1e-4)


@given(cuts=st.lists(st.integers(1, 22), max_size=6), length=st.integers(1, 23))
@settings(max_examples=15)
def test_streaming_equals_the_whole_for_every_chunking(model, cuts, length):
    video = torch.rand((3, length, 24, 17), generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole = model.encode_groups(pad_to_grid(video[None], model.factors))[0][0]
    stream, pieces, bounds = model.stream(), [], sorted({0, length, *(cut for cut in cuts if cut < length)})
    for a, b in zip(bounds, bounds[1:], strict=False):
        pieces += stream.push(video[:, a:b])
    pieces += stream.flush()
    assert torch.allclose(torch.cat([mean for mean, _ in pieces], dim=1), whole, atol=1e-5)


def test_latents_of_a_prefix_are_the_prefix_of_the_latents(model):
    video = torch.rand(3, 21, 24, 24) * 2 - 1
    whole = model.encode(video).mean
    for length, latents in ((1, 1), (5, 2), (9, 3), (17, 5)):
        assert torch.allclose(model.encode(video[:, :length]).mean, whole[:, :latents], atol=1e-5)


@pytest.mark.parametrize("where", [(0, 0, 0), (6, 22, 20), (3, 0, 20), (6, 10, 10)])
def test_every_real_pixel_reaches_the_latent(model, where):
    video = torch.rand(3, 7, 23, 21) * 2 - 1
    changed = video.clone()
    changed[:, where[0], where[1], where[2]] += 0.7
    assert (model.encode(changed).mean - model.encode(video).mean).abs().max() > 1e-4


def test_the_committed_weights_reconstruct_held_out_films_better_than_their_linear_part():
    vae = load_own()
    linear = load_own()
    for name, parameter in linear.named_parameters():
        if name.startswith(("enc_out", "dec_out")):
            parameter.zero_()
    ours, baseline = [], []
    for seed in range(900, 908):
        video = as_float(world_clip(seed))
        ours.append(psnr_db(vae.decode(vae.encode(video)), video))
        baseline.append(psnr_db(linear.decode(linear.encode(video)), video))
    assert sum(ours) / 8 > 26
    assert sum(ours) > sum(baseline)
