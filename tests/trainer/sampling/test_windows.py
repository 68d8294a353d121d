"""What a long sample is given joins what is made before it, wherever the windows happen to end."""

import numpy as np
import pytest
import torch

from tests.trainer.sampling import oracle
from tests.trainer.sampling.model import OracleModel
from trainer.sampling.canvas import Canvas
from trainer.sampling.conditions import Start
from trainer.sampling.draft import Request, Sampling
from trainer.sampling.guidance import Guidance
from trainer.sampling.windows import Windows, windowed

COUNT, NEAR = 3000, 0.9
HOW = Sampling(steps=20, solver="dpm++2m", guidance=Guidance(text=1.0))


@pytest.fixture(autouse=True)
def long_oracle(monkeypatch):
    """Of forty frames, each of which is .9 correlated with the next."""
    apart = np.abs(np.subtract.outer(np.arange(40), np.arange(40)))
    monkeypatch.setattr(oracle, "COVARIANCE", torch.tensor(NEAR**apart))


@pytest.mark.parametrize("num_made", [14, 16, 18, 20, 21, 22])
@pytest.mark.parametrize("num_given", [1, 3])
def test_what_is_made_leads_to_what_is_given_at_the_end(num_made, num_given):
    total = num_made + num_given
    latent, level = torch.zeros(COUNT, total, 1, 1), torch.ones(total, 1, 1)
    first = torch.randn(COUNT, generator=torch.Generator().manual_seed(0))
    latent[:, num_made:, 0, 0], level[num_made:] = first[:, None], 0.0
    canvas = Canvas(num_frames=1 + 4 * (total - 1), height_px=8, width_px=8)
    request = Request(canvas=canvas, start=Start(latent=latent, level=level))
    parts = list(windowed(OracleModel(COUNT), request, HOW, Windows(12, 3)))
    frames = torch.cat(parts, dim=1)[:, :, 0, 0].T
    assert torch.equal(frames[num_made:], latent[:, num_made:, 0, 0].T)
    pairs = [float(torch.corrcoef(frames[at - 1 : at + 1])[0, 1]) for at in range(1, num_made + 1)]
    assert pairs[-1] > 0.8, Windows(12, 3).shares(total)
    assert min(pairs) > 0.8
