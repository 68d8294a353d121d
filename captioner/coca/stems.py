"""The eyes of a small captioner: patch embeddings by convolutions, motion by matching frames.

Shape legend: B pictures, C channels, H W pixels, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANGE_GAIN = 3.0
"""Differences of frames are about as much smaller than frames: the stem sees both as loud."""
CELL_PX = 4
RADIUS = 3
"""Frames are matched in cells of so many pixels, over so many cells each way: 12 pixels of a frame 72 high, a
sixth of it, which is as far as things get between two previews."""
SHARPNESS = 0.1
"""Squared difference (of normalised colours) at which a match is a third as likely."""


class ConvStem(nn.Module):
    """Patch embeddings by convolutions at full size, each followed by a halving.

    Shapes a few patches wide are told with far less data than patches need.

    Its group norms take the background's share out of every picture, so that what is small and different
    stands out; the maxima keep it. Its filters are standardised, which makes up for what group norms lack of
    batch norms (Qiao et al. 2019, arXiv:1903.10520).
    """

    def __init__(self, channels: int, width: int, patch_px: int) -> None:
        super().__init__()
        halvings = patch_px.bit_length() - 1
        sizes = [min(width, 16 * 2**level) for level in range(halvings)] + [width]
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
                for c_in, c_out in zip([channels, *sizes], sizes, strict=False)
            ]
        )
        self.norms = nn.ModuleList([nn.GroupNorm(8, size) for size in sizes])
        self.halvings = halvings

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, D, H / patch, W / patch]."""
        x = x.contiguous(memory_format=torch.channels_last)
        for level, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            assert isinstance(conv, nn.Conv2d)
            x = F.conv2d(x, standardised(conv.weight), padding=1)
            x = F.relu(
                norm(F.max_pool2d(x, 2) if level < self.halvings else x)
            )  # halved first: what follows is four times cheaper
        return x


class MatchStem(nn.Module):
    """Motion of each place of the middle frame, by matching it in the frames before and after.

    A convolution has to learn from captions that a difference of frames is a motion; a matching cost says so
    from the first step (the correlation layer of FlowNet, Fischer et al. 2015, arXiv:1504.06852, here on
    colours).
    """

    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        self.patch_px, inner = patch_px, width // 2
        self.mix, self.conv, self.out = (
            nn.Conv2d(2 * (2 * RADIUS + 1) ** 2 + 9, inner, 1),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.Conv2d(inner, width, 3, padding=1, bias=False),
        )
        self.norms = nn.ModuleList([nn.GroupNorm(8, size) for size in (inner, inner, width)])

    def forward(self, before: Tensor, middle: Tensor, after: Tensor) -> Tensor:
        """Three frames [B, 3, H, W] to [B, D, H / patch, W / patch]."""
        before, middle, after = (F.avg_pool2d(frame, CELL_PX) for frame in (before, middle, after))
        changes = CHANGE_GAIN * (middle - before), CHANGE_GAIN * (after - middle), middle
        x = torch.cat([matches(middle, before), matches(middle, after), *changes], dim=1)
        x = F.relu(self.norms[0](self.mix(x)))
        x = F.relu(self.norms[1](F.conv2d(x, standardised(self.conv.weight), padding=1)))
        x = F.conv2d(x, standardised(self.out.weight), padding=1)
        return F.relu(self.norms[2](F.max_pool2d(x, self.patch_px // CELL_PX)))


@torch.no_grad()
def matches(here: Tensor, there: Tensor, radius: int = RADIUS) -> Tensor:
    """[B, (2 radius + 1)^2, h, w]: probability of each displacement of `here` [B, C, h, w] in `there`.

    By squared differences of neighbourhoods of 3 x 3 cells; where nothing can be told apart, all are alike.
    """
    side = 2 * radius + 1
    b, c, h, w = here.shape
    shifted = F.unfold(F.pad(there, (radius, radius, radius, radius), mode="replicate"), (side, side)).view(
        b, c, side * side, h, w
    )
    cost = (shifted - here[:, :, None]).square().mean(1)
    cost = F.avg_pool2d(cost, 3, 1, 1, count_include_pad=False)
    return torch.softmax(-cost / SHARPNESS, dim=1) * side


def standardised(weight: Tensor) -> Tensor:
    """Filters [D, C, h, w] of mean zero and length one."""
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    return centred / (centred.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-5)


def waves(rows: int, columns: int, width: int) -> Tensor:
    """[rows * columns, D]: sines and cosines of row and column at rising rates, half of D each.

    Dosovitskiy et al. 2021 compare such tables.
    """

    def wave(count: int) -> Tensor:
        rates = 2.0 ** torch.linspace(0, 3, width // 4) * torch.pi / count
        angles = torch.arange(count)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    down, across = (
        wave(rows)[:, None].expand(rows, columns, -1),
        wave(columns)[None].expand(rows, columns, -1),
    )
    return torch.cat([down, across], dim=-1).flatten(0, 1)
