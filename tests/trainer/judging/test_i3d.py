"""FVD's network: its layout is the published one, its file is checked, and the distance tells films apart."""

import pytest
import torch
from safetensors.torch import save_file

from manifests.errors import UsageError
from trainer.judging import i3d
from trainer.judging.frechet import distance


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return i3d.I3D().eval().requires_grad_(False)


def test_the_layout_is_that_of_the_published_weights(network):
    state = network.state_dict()
    assert sum(value.numel() for value in network.parameters()) == 12_697_264
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_4f.b2b.conv3d.weight"].shape == (128, 32, 3, 3, 3)
    assert state["Mixed_5c.b3b.bn.running_var"].shape == (128,)
    assert state["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1) and "logits.conv3d.bias" in state


@pytest.mark.parametrize(("size", "width", "step", "outside"), [(224, 7, 2, 112), (7, 2, 2, 4), (9, 3, 1, 9)])
def test_padding_keeps_the_size_over_the_stride(size, width, step, outside):
    x = torch.ones(1, 1, size, size, size)
    padded = i3d._padded(x, (width,) * 3, (step,) * 3)
    assert (padded.shape[2] - width) // step + 1 == outside
    before = (padded[0, 0, :, size // 2, size // 2] == 0).int().argmin()
    assert before == (padded.shape[2] - size) // 2  # what is odd comes after


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_come_back_from_a_file(network, tmp_path, suffix):
    path = tmp_path / f"i3d{suffix}"
    state = network.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    films = [torch.randint(0, 256, (16, 20, 30, 3), dtype=torch.uint8)]
    assert torch.equal(i3d.features(i3d.load(path), films), i3d.features(network, films))


def test_other_files_are_refused_by_name(network, tmp_path):
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save([network], tmp_path / "code.pt")  # a pickle that would run code
    for name in ("text.pt", "other.pt", "code.pt", "missing.pt"):
        with pytest.raises(UsageError, match=name):
            i3d.load(tmp_path / name)


def test_films_like_the_true_ones_are_nearer_and_short_ones_are_left_out(network):
    draw = torch.Generator().manual_seed(1)

    def film(noise: int, frames: int = 16) -> torch.Tensor:
        grid = torch.arange(32)[:, None].expand(32, 40)[None, :, :, None].expand(frames, 32, 40, 3) * 7
        shift = torch.randint(0, 60, (1, 1, 1, 3), generator=draw)
        rough = torch.randint(0, noise, (frames, 32, 40, 3), generator=draw)
        return (grid + shift + rough).clamp(0, 255).to(torch.uint8)

    true = i3d.features(network, [film(2) for _ in range(5)])
    like = i3d.features(network, [film(2) for _ in range(5)])
    unlike = i3d.features(network, [film(200) for _ in range(5)] + [film(200, 15)])
    assert len(unlike) == 5
    assert distance(true, true) == pytest.approx(0, abs=1e-6)
    assert distance(true, like) < distance(true, unlike) / 4
