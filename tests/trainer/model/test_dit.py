import dataclasses
import warnings

import pytest
import torch

from manifests.errors import UsageError
from trainer.config import FlowConfig, ModelConfig
from trainer.data.loader import _window_offset
from trainer.data.patches import coordinates, patchify, token_validity, unpatchify
from trainer.data.samples import Sample
from trainer.model.attention import attend, attend_dense, attend_flex, attend_routed, attend_varlen, documents
from trainer.model.dit import DiT
from trainer.model.flow import draw_known, noised, shift_of, shifted
from trainer.sampling.solvers import integrate
from vae.grid import Extent, latent_size

CONFIG = ModelConfig(width=64, depth=2, num_heads=2, latent_channels=4, text_width=8)


def offsets(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize(
    ("queries", "keys"), [([5, 3, 5, 1], [5, 3, 5, 1]), ([4, 4, 7], [2, 9, 2]), ([6], [1])]
)
def test_grouped_attention_equals_the_dense_oracle(queries, keys):
    q, k, v = (torch.randn(sum(lengths), 2, 8) for lengths in (queries, keys, keys))
    of = documents(offsets(queries), offsets(keys), q.dtype)
    expected = attend_dense(q, k, v, of)
    assert torch.allclose(attend(q, k, v, of), expected, atol=1e-6)
    with (
        torch.no_grad(),
        warnings.catch_warnings(),
    ):  # FlexAttention has no backward pass on a CPU, and says that it is slow there
        warnings.simplefilter("ignore")
        assert torch.allclose(attend_flex(q, k, v, of), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("queries", "keys"),
    [
        ([5, 33, 40, 1, 64, 32], [5, 33, 40, 1, 64, 32]),
        ([9, 0, 70, 10], [3, 1, 90, 31]),
        ([600, 20, 600, 513], [600, 20, 600, 513]),
        ([6], [1]),
    ],
)
def test_padded_attention_equals_the_dense_oracle_with_its_gradients(queries, keys):
    q, k, v = (
        torch.randn(sum(lengths), 2, 16, dtype=torch.bfloat16, requires_grad=True)
        for lengths in (queries, keys, keys)
    )
    of = documents(offsets(queries), offsets(keys), q.dtype)
    assert of.padding is not None
    exact = [part.detach().float().requires_grad_() for part in (q, k, v)]
    found, expected = attend(q, k, v, of), attend_dense(*exact, of)
    assert torch.allclose(found.float(), expected, atol=3e-2)
    weights = torch.randn(expected.shape)
    (found.float() * weights).sum().backward()
    (expected * weights).sum().backward()
    for part, true in zip((q, k, v), exact, strict=True):
        assert torch.allclose(
            part.grad.float(), true.grad, atol=6e-2 * max(1.0, float(true.grad.abs().max()))
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("path", [attend_varlen, attend_flex, attend_routed])
def test_the_gpus_attention_equals_the_dense_oracle(path):
    lengths = [70, 3, 129, 1, 64]
    q, k, v = (torch.randn(sum(lengths), 4, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    cu = offsets(lengths).cuda()
    of = documents(cu, cu, q.dtype, long_from=64)
    assert torch.allclose(
        path(q, k, v, of).float(), attend_dense(q.float(), k.float(), v.float(), of), atol=3e-2
    )


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 7), (4, 4, 2), (2, 1, 9)])
@pytest.mark.parametrize("patch", [(1, 2, 2), (1, 1, 1), (2, 2, 2)])
def test_patches_come_back_to_the_exact_size(size, patch):
    latent = torch.randn(4, *size)
    tokens, grid = patchify(latent, patch)
    assert torch.equal(unpatchify(tokens, grid, patch, size), latent)


def test_coordinates_are_seconds_and_centred_rows_and_columns():
    coords, frame = coordinates((3, 2, 3), (1, 2, 2), fps=16.0)
    assert coords[0].tolist() == [0.0, -0.5, -1.0, 1.0]
    assert coords[-1].tolist() == [pytest.approx((8 - 1.5) / 16), 0.5, 1.0, 0.0]
    assert frame.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    for fps in (8.0, 30.0, 30000 / 1001):
        other, _ = coordinates((3, 2, 3), (1, 2, 2), fps=fps)
        assert torch.allclose(other[:, 0] * fps, coords[:, 0] * 16)
        assert torch.equal(other[:, 1:], coords[:, 1:])
    image, _ = coordinates((1, 3, 2), (1, 2, 2), fps=0.0)
    assert image.tolist() == [[0.0, row, column, 1.0] for row in (-1.0, 0.0, 1.0) for column in (-0.5, 0.5)]
    window, _ = coordinates((1, 2, 3), (1, 2, 2), fps=16.0, start=2)
    assert torch.equal(window, coords[12:])


def test_two_latents_a_token_have_the_centre_of_their_frames_and_say_where_a_clip_begins():
    """Latents of frames 0, 1-4, 5-8, 9-12, 13-16: tokens of 0-4, 5-12 and, with padding, 13-16."""
    whole, _ = coordinates((3, 1, 1), (2, 2, 2), fps=8.0, length=5)
    assert (whole[:, 0] * 8).tolist() == [2.0, 8.5, 14.5]
    assert whole[:, 3].tolist() == [1.0, 0.0, 0.0]
    window, _ = coordinates((2, 1, 1), (2, 2, 2), fps=8.0, start=2, length=3)
    assert torch.equal(window, whole[1:])


def test_a_window_of_a_picture_with_odd_sides_lies_where_its_tokens_do():
    """5 x 7 cells are 3 x 4 tokens, the last of them part padding."""
    whole, _ = coordinates((1, 3, 4), (1, 2, 2), fps=0.0)
    row = {"latent_h": 5, "latent_w": 7}
    for top, height, left, width in ((0, 4, 0, 4), (2, 3, 4, 3), (2, 2, 2, 4), (4, 1, 6, 1), (0, 5, 2, 2)):
        sample = Sample("a", 0, 1, height, width, top=top, left=left)
        rows, columns = -(-height // 2), -(-width // 2)
        window, _ = coordinates((1, rows, columns), (1, 2, 2), fps=0.0)
        tokens = [(top // 2 + r) * 4 + left // 2 + c for r in range(rows) for c in range(columns)]
        assert torch.equal(window + _window_offset(sample, row, (1, 2, 2)), whole[tokens])


def test_padding_weighs_nothing_and_partial_cells_their_share():
    extent = Extent(3, 12, 20)  # latent 2 x 2 x 3, tokens 2 x 1 x 2: the last column of cells pads
    weight = token_validity(extent, Sample("a", 0, *latent_size(extent)), (1, 2, 2))
    assert weight.shape == (4, 4)
    assert weight[0].tolist() == [1.0, 1.0, 0.5, 0.5]
    assert weight[1].tolist() == [0.5, 0.0, 0.25, 0.0]
    assert weight[2].tolist() == [0.5, 0.5, 0.25, 0.25]


def open_model(**more):
    torch.manual_seed(0)
    model = DiT(dataclasses.replace(CONFIG, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model


@torch.no_grad()
@pytest.mark.parametrize("text", ["cross", "joint"])
@pytest.mark.parametrize("path", [attend, attend_flex, attend_dense])
def test_a_sample_in_a_pack_gives_what_it_gives_alone(text, path, monkeypatch):
    monkeypatch.setattr("trainer.model.dit.attend", path)
    model, parts = open_model(text=text), []
    for index, (grid, fps, words, sigma) in enumerate(
        [
            ((3, 2, 4), 16.0, 5, 0.7),
            ((1, 5, 3), 0.0, 1, 0.2),
            ((4, 2, 2), 30.0, 9, 0.95),
            ((3, 2, 4), 8.0, 5, 0.7),
        ]
    ):
        coords, frame = coordinates(grid, CONFIG.patch, fps)
        count = len(coords)
        known = frame == 0 if index == 2 else torch.zeros(count, dtype=torch.bool)
        parts.append(
            (torch.randn(count, 16), torch.where(known, 0.0, sigma), known, coords, torch.randn(words, 8))
        )
    x, sigma, known, coords, text = (torch.cat(column) for column in zip(*parts, strict=True))
    packed = model(
        x,
        sigma,
        known,
        coords,
        offsets([len(part[0]) for part in parts]),
        text,
        offsets([len(part[4]) for part in parts]),
    )
    begin = 0
    for part in parts:
        alone = model(*part[:4], offsets([len(part[0])]), part[4], offsets([len(part[4])]))
        assert torch.allclose(packed[begin : begin + len(part[0])], alone, atol=1e-5)
        begin += len(part[0])


@torch.no_grad()
@pytest.mark.parametrize("text", ["cross", "joint"])
def test_text_sigma_position_and_given_flag_all_reach_the_output(text):
    model, own = open_model(text=text), text
    coords, _ = coordinates((2, 2, 2), CONFIG.patch, 16.0)
    x, sigma, known, text = torch.randn(8, 16), torch.full((8,), 0.5), torch.zeros(8), torch.randn(3, 8)
    cu, text_cu = offsets([8]), offsets([3])
    out = model(x, sigma, known, coords, cu, text, text_cu)
    assert not torch.allclose(out, model(x, sigma, known, coords, cu, text.flip(0) * 2, text_cu), atol=1e-5)
    assert not torch.allclose(out, model(x, sigma * 0.5, known, coords, cu, text, text_cu), atol=1e-5)
    assert not torch.allclose(out, model(x, sigma, known, coords * 2, cu, text, text_cu), atol=1e-5)
    assert not torch.allclose(out, model(x, sigma, known + 1, coords, cu, text, text_cu), atol=1e-5)
    moved = coords + torch.tensor([0.0, 40.0, -7.0, 0.0])
    if own == "joint":  # words stand at the origin
        return
    assert torch.allclose(
        out, model(x, sigma, known, moved, cu, text, text_cu), atol=1e-4
    )  # positions are relative


def test_a_new_model_predicts_zero():
    model = DiT(CONFIG)
    coords, _ = coordinates((1, 2, 2), CONFIG.patch, 0.0)
    assert not model(
        torch.randn(4, 16),
        torch.rand(4),
        torch.zeros(4),
        coords,
        offsets([4]),
        torch.randn(2, 8),
        offsets([2]),
    ).any()


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_following_the_true_direction_leads_from_noise_to_data(path):
    clean, noise = torch.randn(2, 5, 16)
    levels = torch.linspace(1, 0, 65)[:, None].expand(-1, 5)

    def direction(x, sigma):
        return noised(clean, noise, sigma[:, None], path)[1]

    start = noised(clean, noise, torch.ones(5, 1), path)[0]
    assert torch.allclose(start, noise, atol=1e-6)
    assert torch.allclose(integrate(direction, start, levels, "heun", path), clean, atol=1e-3)
    middle, _ = noised(clean, noise, torch.full((5, 1), 0.5), "cosine")
    assert torch.allclose(
        middle, (clean + noise) / 2**0.5, atol=1e-6
    )  # as much of the one as of the other, at unit variance


def test_the_shift_grows_with_shape_and_is_bounded():
    config = FlowConfig()
    shifts = [shift_of((t, s, s), config) for t, s in ((1, 2), (1, 8), (8, 8), (32, 16), (400, 200))]
    assert shifts == sorted(shifts)
    assert shift_of((1, 32, 32), config) == pytest.approx(2 * shift_of((1, 8, 8), config)), (
        "four times the side"
    )
    assert shift_of((64, 8, 8), config) == pytest.approx(2 * shift_of((4, 8, 8), config))
    for frames, height, width in ((21, 30, 52), (31, 45, 80)):  # 81 frames of 480p, 121 of 720p
        free = shift_of((frames, height, width), config)
        assert 3.9 < free < 6 and shift_of((frames, height + 1, width), config) > free, "no bound cuts it off"
    bounded = dataclasses.replace(config, shift_max=4.0)
    assert shift_of((400, 200, 200), bounded) == 4.0
    levels = torch.linspace(0, 1, 11)
    moved = shifted(levels, 3.0)
    assert moved[0] == 0 and moved[-1] == 1 and (moved[1:-1] > levels[1:-1]).all()


def test_known_patterns_are_drawn_as_often_as_configured():
    config, grid = FlowConfig(), (8, 2, 2)
    frame = torch.arange(8).repeat_interleave(4)
    generator = torch.Generator().manual_seed(0)
    patterns = torch.stack([draw_known(grid, frame, config, generator) for _ in range(3000)]).view(-1, 8, 4)
    whole = patterns.all(2)  # [3000, 8] frames that are given whole
    is_box = patterns.any(2).all(1)
    assert 0.62 < float((~patterns.any(2)).all(1).float().mean()) < 0.67  # .6, and a tenth of the rest
    assert 0.03 < float((whole[:, 0] & whole[:, -1]).float().mean()) < 0.07
    assert 0.1 < float(whole[:, -1].float().mean()) < 0.17
    assert 0.01 < float((whole[:, 1:-1].any(1) & ~whole[:, 0] & ~whole[:, -1]).float().mean()) < 0.06
    assert 0.015 < float(is_box.float().mean()) < 0.04
    assert not whole.all(1).any()
    assert not draw_known((1, 2, 2), frame[:4], FlowConfig(condition={"first": 1.0}), generator).any()
    assert not draw_known(
        grid, frame, FlowConfig(condition={"first": 1.0}, condition_dropout=1.0), generator
    ).any()
    with pytest.raises(UsageError, match="unknown patterns"):
        draw_known(grid, frame, FlowConfig(condition={"backwards": 1.0}), generator)


def _is_box(part: torch.Tensor) -> bool:
    rows, columns = part.any(1).nonzero(), part.any(0).nonzero()
    return bool(part[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all())


@pytest.mark.parametrize("grid", [(1, 6, 9), (3, 5, 4), (2, 1, 7)])
def test_a_box_or_all_around_it_is_given_for_the_whole_length(grid):
    config = FlowConfig(condition={"box": 1.0}, condition_dropout=0.0)
    generator, shares = torch.Generator().manual_seed(0), []
    frame = torch.arange(grid[0]).repeat_interleave(grid[1] * grid[2])
    for _ in range(200):
        given = draw_known(grid, frame, config, generator).view(grid)
        assert bool((given == given[:1]).all()) and not bool(given.all())
        assert not bool(given.any()) or _is_box(given[0]) or _is_box(~given[0])
        shares.append(float(given.float().mean()))
    assert min(shares) < 0.3 and max(shares) > 0.7
