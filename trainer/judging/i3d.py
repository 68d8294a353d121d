"""The network that FVD is defined by, I3D on RGB, as `rgb_imagenet.pt` and `i3d_pretrained_400.pt` hold it.

Source: Carreira and Zisserman 2017 (arXiv:1705.07750); the distance over its logits: Unterthiner et al. 2018
(arXiv:1812.01717). The names of the parts are those of the published files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from manifests.errors import UsageError

SIDE_PX, NUM_FRAMES = 224, 16
_CLASSES = 400
_Size = tuple[int, int, int]


def _padded(x: Tensor, kernel: _Size, stride: _Size) -> Tensor:
    """Zeros around, so that the output is as large as the input over the stride; what is odd comes after."""
    pads: list[int] = []
    for size, width, step in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        more = max(width - (size % step or step), 0)
        pads += [more // 2, more - more // 2]
    return functional.pad(x, pads)


class Unit(nn.Module):
    """Convolution, norm and ReLU; of the last one, convolution alone."""

    def __init__(self, inside: int, outside: int, size: int = 1, stride: int = 1, is_last: bool = False):
        super().__init__()
        self.kernel, self.stride = (size,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inside, outside, size, stride, bias=is_last)
        if not is_last:
            self.bn = nn.BatchNorm3d(outside, eps=1e-3)
        self.is_last = is_last

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_padded(x, self.kernel, self.stride))
        return x if self.is_last else functional.relu(self.bn(x))


class Pool(nn.Module):
    """The largest of each window."""

    def __init__(self, kernel: _Size, stride: _Size) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool3d(_padded(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inside: int, b0: int, b1: _Size | tuple[int, int], b2: tuple[int, int], b3: int):
        super().__init__()
        self.b0 = Unit(inside, b0)
        self.b1a, self.b1b = Unit(inside, b1[0]), Unit(b1[0], b1[1], 3)
        self.b2a, self.b2b = Unit(inside, b2[0]), Unit(b2[0], b2[1], 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inside, b3)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(branches, 1)


class I3D(nn.Module):
    """Logits of the 400 classes of Kinetics, the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [
            ("Conv3d_1a_7x7", Unit(3, 64, 7, 2)),
            ("MaxPool3d_2a_3x3", Pool((1, 3, 3), (1, 2, 2))),
            ("Conv3d_2b_1x1", Unit(64, 64)),
            ("Conv3d_2c_3x3", Unit(64, 192, 3)),
            ("MaxPool3d_3a_3x3", Pool((1, 3, 3), (1, 2, 2))),
            ("Mixed_3b", Mixed(192, 64, (96, 128), (16, 32), 32)),
            ("Mixed_3c", Mixed(256, 128, (128, 192), (32, 96), 64)),
            ("MaxPool3d_4a_3x3", Pool((3, 3, 3), (2, 2, 2))),
            ("Mixed_4b", Mixed(480, 192, (96, 208), (16, 48), 64)),
            ("Mixed_4c", Mixed(512, 160, (112, 224), (24, 64), 64)),
            ("Mixed_4d", Mixed(512, 128, (128, 256), (24, 64), 64)),
            ("Mixed_4e", Mixed(512, 112, (144, 288), (32, 64), 64)),
            ("Mixed_4f", Mixed(528, 256, (160, 320), (32, 128), 128)),
            ("MaxPool3d_5a_2x2", Pool((2, 2, 2), (2, 2, 2))),
            ("Mixed_5b", Mixed(832, 256, (160, 320), (32, 128), 128)),
            ("Mixed_5c", Mixed(832, 384, (192, 384), (48, 128), 128)),
        ]
        for name, part in self.parts:
            self.add_module(name, part)
        self.logits = Unit(1024, _CLASSES, is_last=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, T, 224, 224] from -1 to 1, at least nine frames, to [N, 400]."""
        for _, part in self.parts:
            x = part(x)
        x = functional.avg_pool3d(x, (2, 7, 7), stride=1)
        return self.logits(x).flatten(2).mean(2)


def load(path: Path) -> I3D:
    """The network from a file of its weights, safetensors or a state dict of torch.

    Raises:
        UsageError: the file is none, or not of this network.
    """
    advice = "Give those of I3D on RGB and Kinetics-400, such as rgb_imagenet.pt or i3d_pretrained_400.pt."
    try:
        is_plain = path.suffix == ".safetensors"
        state = load_file(path) if is_plain else torch.load(path, map_location="cpu", weights_only=True)
        model = I3D()
        model.load_state_dict(state)
        if wrong := next(
            (name for name, value in model.state_dict().items() if not value.isfinite().all()), ""
        ):
            raise ValueError(f"its {wrong} holds numbers that are not finite")
    except FileNotFoundError as error:
        raise UsageError(str(path), "is not there", advice) from error
    except Exception as error:  # of damaged files torch raises of every kind
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["nothing"]
        first = " ".join(lines[:2]).partition(". ")[0][:300]
        raise UsageError(str(path), f"holds no weights of I3D ({first})", advice) from error
    return model.eval().requires_grad_(False)


@torch.no_grad()
def features(model: I3D, films: Sequence[Tensor]) -> Tensor:
    """Logits [n, 400] of the first 16 frames of films [T, H, W, 3] uint8; shorter ones are left out."""
    found = [torch.zeros(0, _CLASSES)]
    for film in films:
        if len(film) >= NUM_FRAMES:
            frames = film[:NUM_FRAMES].permute(3, 0, 1, 2).float() / 127.5 - 1
            size = (NUM_FRAMES, SIDE_PX, SIDE_PX)
            frames = functional.interpolate(frames[None], size, mode="trilinear", align_corners=False)
            found.append(model(frames))
    return torch.cat(found)
