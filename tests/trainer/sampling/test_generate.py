"""Every feature at the level of latents, held to the exact answer of a Gaussian video."""

from dataclasses import replace

import pytest
import torch

from manifests.errors import UsageError
from tests.trainer.sampling import oracle
from tests.trainer.sampling.model import CANVAS, OracleModel
from trainer.data.patches import coordinates
from trainer.sampling.canvas import Canvas
from trainer.sampling.conditions import Start
from trainer.sampling.draft import Prompt, Request, Sampling
from trainer.sampling.generate import generate
from trainer.sampling.guidance import Branch, Guidance
from trainer.sampling.windows import Windows, windowed

PLAIN = Guidance(text=1.0)
HOW = Sampling(steps=30, solver="heun", guidance=PLAIN)


def frames(latent):
    """[C, t, 1, 1] as [t, C] in double precision."""
    return latent[:, :, 0, 0].T.double()


def as_latent(x):
    return x.T.float()[:, :, None, None]


def given(x, known, level=0.0):
    levels = torch.ones(oracle.FRAMES, 1, 1)
    levels[known] = level
    return Start(latent=as_latent(x), level=levels)


def sample(start=None, how=HOW, model=None, **parts):
    request = Request(canvas=CANVAS, start=start, seed=5, **parts)
    return generate(model or OracleModel(), [request], how)[0]


@pytest.mark.parametrize(
    "known",
    [[0], [0, 1, 2, 3], [8, 9, 10, 11], [0, 1, 2, 9, 10, 11], [2, 7]],
    ids=["image to video", "extend after", "extend before", "connect", "keyframes"],
)
def test_kept_frames_are_bit_equal_and_the_others_follow_them(known):
    values = torch.tensor([1.5, -0.7, 0.4, 1.1, 0.2, -1.0])[: len(known)].double()
    x = oracle.draw()
    x[known] = values[:, None]
    start = given(x, known)
    out = sample(start)
    assert torch.equal(out[:, known], start.latent[:, known])
    rest, mean, spread = oracle.conditional(known, values)
    floor = 4 * (spread.diagonal().max() / oracle.COUNT).sqrt()  # of a mean over so many draws
    assert (frames(out)[rest].mean(1) - mean).abs().mean() <= 0.03
    assert (frames(out)[rest].mean(1) - mean).abs().max() <= max(0.03, float(floor))
    assert (torch.cov(frames(out)[rest]) - spread).abs().max() < 0.1


@pytest.mark.parametrize(
    ("solver", "steps", "limit"), [("dpm++2m", 20, 0.05), ("heun", 20, 0.06), ("euler", 50, 0.1)]
)
def test_samples_from_noise_have_the_right_covariance(solver, steps, limit):
    model = OracleModel(24000, shift_spatial=0.0, shift_temporal=2.0)  # a shift of 3
    out = sample(how=Sampling(steps=steps, solver=solver, guidance=PLAIN), model=model)
    assert oracle.covariance_error(frames(out)) <= limit
    assert model.calls == (2 * steps - 1 if solver == "heun" else steps)


def loop_of(latents):
    return Canvas(num_frames=4 * latents, height_px=8, width_px=8, begins="group")


def seam(x):
    """The largest change from a latent to the next in a circle, beside the middle one."""
    changes = (x - x.roll(-1, 0)).pow(2).mean(1).sqrt()
    return float(changes.max() / changes.median())


@pytest.mark.parametrize("latents", range(3, oracle.FRAMES + 1))
def test_a_loop_of_any_length_has_no_seam(latents):
    how = Sampling(steps=24, solver="dpm++2m", guidance=PLAIN)

    def made(is_loop):
        request = Request(canvas=loop_of(latents), is_loop=is_loop)
        return frames(generate(OracleModel(4000), [request], how)[0])

    assert seam(made(False)) > 1.25
    assert seam(made(True)) <= 1.1


@pytest.mark.parametrize(
    ("latents", "length", "overlap"), [(24, 8, 1), (13, 12, 9), (30, 12, 4), (17, 12, 1)]
)
def test_a_loop_of_several_windows_closes_over_many_latents(latents, length, overlap):
    how, windows = Sampling(steps=24, solver="dpm++2m", guidance=PLAIN), Windows(length, overlap)
    request = Request(canvas=loop_of(latents), is_loop=True)
    parts = list(windowed(OracleModel(4000), request, how, windows))
    assert [part.shape[1] for part in parts] == windows.shares(latents, is_loop=True)
    assert sum(windows.shares(latents, is_loop=True)) == latents
    assert seam(frames(torch.cat(parts, dim=1))) <= 1.45, (
        "it was 1.85 where two latents were left to close it"
    )


@pytest.mark.parametrize("latents", [1, 5, 12])
def test_small_canvases_lose_no_variance(latents):
    """Their noise levels are shifted down in training; few steps near noise would not be enough."""
    canvas = Canvas(num_frames=1 + 4 * (latents - 1), height_px=8, width_px=8)
    how = Sampling(steps=24, solver="dpm++2m", guidance=PLAIN)
    x = frames(generate(OracleModel(20000), [Request(canvas=canvas)], how)[0])
    assert (torch.cov(x).reshape(latents, latents) - oracle.COVARIANCE[:latents, :latents]).abs().max() < 0.05


def test_what_is_kept_of_a_part_of_a_patch_reaches_the_model():
    """A first latent that shares a patch with the next one, as a picture with patches of two latents."""
    seen = []

    class Pairs(OracleModel):
        def predict(self, x, sigma, known, coords, *rest):
            seen.append((x.clone(), sigma.clone()))
            return torch.zeros_like(x)

    model = Pairs(16)
    model.patch = (2, 1, 1)
    canvas = Canvas(num_frames=9, height_px=8, width_px=8)
    start = Start(latent=torch.full((16, 3, 1, 1), 50.0), level=torch.tensor([0.0, 1, 1]).view(3, 1, 1))
    [out] = generate(model, [Request(canvas=canvas, start=start)], Sampling(steps=8, solver="euler"))
    assert torch.equal(out[:, :1], start.latent[:, :1])
    for x, sigma in seen:
        first, second = x[0, :16], x[0, 16:]
        assert ((first - 50 * (1 - sigma[0])).abs() < 5).all() and (second.abs() < 6).all()


def test_a_last_patch_of_padding_has_the_coordinates_it_had_in_training():
    grid, patch, factors = (2, 1, 1), (2, 1, 1), (4, 8, 8)
    canvas = Canvas(num_frames=9, height_px=8, width_px=8, fps=8.0)
    assert torch.equal(
        canvas.coordinates(grid, patch, factors)[0], coordinates(grid, patch, 8.0, 0, 4, length=3)[0]
    )


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_an_edit_begins_at_its_strength_whatever_the_shift(shift):
    x = oracle.draw(seed=3)
    powers = {
        "shift_spatial": 0.0,
        "shift_temporal": 2 * torch.tensor(shift).log().item() / torch.tensor(3.0).log().item(),
    }
    model = OracleModel(shift_max=10.0, **powers)

    def likeness(strength):
        out = sample(given(x, slice(None), strength), Sampling(steps=40, guidance=PLAIN), model)
        return oracle.correlation(x, frames(out)), out

    assert torch.equal(likeness(0.0)[1], as_latent(x))
    found = [likeness(strength)[0] for strength in (0.3, 0.5, 0.7, 1.0)]
    assert found == sorted(found, reverse=True)
    assert abs(found[1] - 0.853) < 0.02
    assert abs(found[3]) < 0.02


def test_an_edit_of_some_frames_leaves_the_others():
    x = oracle.draw(seed=3)
    level = torch.zeros(oracle.FRAMES, 1, 1)
    level[4:8] = 0.6
    out = sample(Start(latent=as_latent(x), level=level))
    assert torch.equal(out[:, [0, 1, 2, 3, 8, 9, 10, 11]], as_latent(x)[:, [0, 1, 2, 3, 8, 9, 10, 11]])
    assert 0.5 < oracle.correlation(x[4:8], frames(out)[4:8]) < 0.99
    assert oracle.covariance_error(frames(out)) < 0.08


def test_flow_edit_moves_by_the_difference_of_two_prompts():
    x = oracle.draw(seed=3)
    start = given(x, slice(None), 1.0)
    zero, two = (Prompt(torch.full((1, 1), value)) for value in (0.0, 2.0))
    how = Sampling(steps=50, solver="euler", guidance=PLAIN)
    same = sample(start, how, prompts=(two,), edited_from=two)
    assert torch.allclose(same, as_latent(x), atol=1e-5)
    moved = sample(start, how, prompts=(two,), edited_from=zero)
    assert abs(float((frames(moved) - x).mean()) - 2.0) < 0.05
    assert oracle.correlation(x, frames(moved)) > 0.99
    assert oracle.covariance_error(frames(moved)) < 0.06


def test_flow_edit_needs_something_to_edit():
    with pytest.raises(UsageError, match="from-prompt"):
        sample(edited_from=Prompt(None))


def test_guidance_of_one_asks_the_model_once_and_more_moves_further():
    text = torch.full((1, 1), 1.0)
    model = OracleModel(200)
    plain = sample(model=model, prompts=(Prompt(text),))
    assert model.sequences == model.calls
    guided = sample(
        model=OracleModel(200), how=Sampling(steps=30, guidance=Guidance(text=2.0)), prompts=(Prompt(text),)
    )
    against = sample(
        model=OracleModel(200),
        how=Sampling(steps=30, guidance=Guidance(text=2.0)),
        prompts=(Prompt(text),),
        negative=torch.full((1, 1), -1.0),
    )
    assert float(plain.mean()) < float(guided.mean()) < float(against.mean())
    never = Guidance(text=2.0, interval=(0.0, 0.0))
    assert torch.allclose(
        plain, sample(model=OracleModel(200), how=replace(HOW, guidance=never), prompts=(Prompt(text),))
    )


def test_rescaled_guidance_keeps_the_spread_of_the_plain_prediction():
    full, without = torch.randn(50, 8), torch.randn(50, 8)
    moves = torch.arange(50) > 9
    found = {Branch.FULL: full, Branch.CONDITION: without}
    guided = Guidance(text=4.0).combine(found, moves)
    assert torch.allclose(guided, without + 4 * (full - without))
    narrow = Guidance(text=4.0, rescale=1.0).combine(found, moves)
    assert float(narrow[moves].std()) == pytest.approx(float(full[moves].std()))
    half = Guidance(text=4.0, rescale=0.5).combine(found, moves)
    assert float(full[moves].std()) < float(half[moves].std()) < float(guided[moves].std())


@pytest.mark.parametrize(
    "wrong",
    [{"text": -1.0}, {"text": float("nan")}, {"condition": 1e4}, {"rescale": 2.0}, {"interval": (0.5, 0.2)}],
)
def test_guidance_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(UsageError, match="guidance"):
        Guidance(**wrong)


def test_guidance_by_conditions_is_exact_where_it_changes_nothing():
    x = oracle.draw(200)
    start = given(x, [0])
    both = [
        sample(start, Sampling(steps=30, guidance=Guidance(text=1.0, condition=weight)), OracleModel(200))
        for weight in (1.0, 1.0000001, 2.0)
    ]
    assert torch.allclose(both[0], both[1], atol=1e-3)
    assert not torch.allclose(both[0], both[2], atol=1e-2)
    assert torch.equal(both[2][:, 0], start.latent[:, 0])


def test_a_pack_gives_what_each_request_gives_alone():
    x = oracle.draw(40)
    zero, one = (Prompt(torch.full((1, 1), value)) for value in (0.0, 1.0))
    requests = [
        Request(canvas=CANVAS, start=given(x, [0, 11]), seed=1, prompts=(one,)),
        Request(canvas=CANVAS, start=given(x, slice(None), 0.6), seed=2),
        Request(canvas=CANVAS, start=given(x, slice(None), 0.0), seed=3),
        Request(canvas=CANVAS, start=given(x, slice(None), 0.8), seed=4, prompts=(one,), edited_from=zero),
        Request(canvas=CANVAS, seed=5, is_loop=True, prompts=(one,)),
    ]
    for solver in ("euler", "heun", "dpm++2m"):
        how = Sampling(steps=8, solver=solver, guidance=Guidance(text=2.0))
        packed = generate(OracleModel(40), requests, how)
        for request, together in zip(requests, packed, strict=True):
            [alone] = generate(OracleModel(40), [request], how)
            assert torch.allclose(alone, together, atol=1e-5), (solver, request.seed)


def test_prompts_count_by_their_weights():
    weight = torch.linspace(0, 1, oracle.FRAMES)
    prompts = tuple(
        Prompt(torch.full((1, 1), value), share) for value, share in ((-2.0, 1 - weight), (2.0, weight))
    )
    means = frames(sample(model=OracleModel(4000), prompts=prompts)).mean(1)
    assert bool((means.diff() > -0.02).all())
    assert means[0] < -1.1 and means[-1] > 1.1
