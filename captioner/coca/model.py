"""A video CoCa on open_clip's modules: a frame ViT whose patches also see what changed since the frame before, and one attentional pooler over all frames.

Shape legend: B clips, T frames, H W pixels, n patches of a frame (g_h x g_w), D vision width, Q pooled tokens, E embedding, L text tokens, V vocabulary.

Sources: CoCa (Yu et al. 2022, arXiv:2205.01917); frames flattened into its pooler as in VideoCoCa (Yan et al. 2022, arXiv:2212.04979). Flattened frames alone
guess motion at chance; a patch embedding of the frame difference added to each frame's patches tells it. With that embedding and the temporal positions at zero,
one frame gives exactly what open_clip's image CoCa gives, so its released weights load (`load_open_clip`).

What open_clip 3.3 leaves undone is done here: its text projection is never initialised, and the shift of the labels is ours (it moved between releases).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from safetensors.torch import load_file
from torch import Tensor, nn

from captioner.coca.config import CocaConfig
from manifests.errors import UsageError

EXTRA = ("temporal", "difference.")


class ConvStem(nn.Module):
    """Pixels to patch embeddings of stride `patch_px` (even) by three convolutions at half the stride: shapes a few patches wide are told here.

    Told by labels alone, such a stem learns the film world's shapes from 30,000 pictures; a linear patch embedding and attention did not begin to. Its group norms
    take the background's share out of every picture, so that what is small and different stands out. The strided first layer is a matrix product over patches,
    whose gradient is several times faster on a CPU than that of a strided convolution.
    """

    def __init__(self, channels: int, width: int, patch_px: int) -> None:
        super().__init__()
        self.inner_px, inner = patch_px // 2, width // 2
        self.inner = nn.Linear(channels * self.inner_px**2, 48)
        self.convs = nn.ModuleList([nn.Conv2d(c_in, c_out, 3, padding=1) for c_in, c_out in ((48, inner), (inner, inner), (inner, width))])
        self.norms = nn.ModuleList([nn.GroupNorm(8, channels) for channels in (inner, inner, width)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, D, H / patch, W / patch]."""
        h = self.inner(F.pixel_unshuffle(x, self.inner_px).movedim(1, -1)).movedim(-1, 1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = norm(conv(F.relu(h)))
        return F.max_pool2d(h, 2)


def _waves(rows: int, columns: int, width: int) -> Tensor:
    """[rows * columns, D]: sines and cosines of row and column at rising rates, half of the width each (Dosovitskiy et al. 2021 compare such tables)."""

    def wave(count: int) -> Tensor:
        rates = 2.0 ** torch.linspace(0, 3, width // 4) * torch.pi / count
        angles = torch.arange(count)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    down, across = wave(rows)[:, None].expand(rows, columns, -1), wave(columns)[None].expand(rows, columns, -1)
    return torch.cat([down, across], dim=-1).flatten(0, 1)


class VideoCoCa(CoCa):
    """CoCa over clips [B, T, 3, H, W]; H and W are multiples of the patch, of any aspect.

    `forward` gives the pooled embeddings, both normalised to length 1, and the logits of the next token at each position.
    """

    def __init__(self, config: CocaConfig) -> None:
        super().__init__(**config.open_clip_arguments(), pad_id=0)
        self.config = config
        width, visual = config.vision_width, self.visual
        if config.stem == "conv":
            visual.conv1 = ConvStem(3, width, config.patch_px)
            self.difference: nn.Module = ConvStem(6, width, config.patch_px)
        else:
            self.difference = nn.Conv2d(3, width, config.patch_px, config.patch_px, bias=False)
            nn.init.zeros_(self.difference.weight)
        self.temporal = nn.Parameter(torch.zeros(config.max_frames, width))
        if config.stem == "conv":
            self._start_from_scratch()
        nn.init.normal_(self.text_decoder.text_projection, std=config.text_width**-0.5)  # open_clip leaves memory as it found it
        if not config.is_legacy:
            self.text.correct_cls_mask = True

    @torch.no_grad()
    def _start_from_scratch(self) -> None:
        """Where and when are as loud as what from the first step, and each query of the pooler begins by looking at one place of one frame.

        With open_clip's small random tables and flat attention the pooler begins with means over the whole clip, in which a small thing is lost, and a small model
        stays there. The first query, the contrastive one, is left as it is.
        """
        config, visual = self.config, self.visual
        side, width = config.image_px // config.patch_px, config.vision_width
        visual.positional_embedding[1:] = 0.7 * _waves(side, side, width)
        nn.init.normal_(self.temporal, std=0.5)
        pooler = visual.attn_pool
        if config.embed_dim != width:
            return
        places = (config.pooler_queries - 1) // config.max_frames
        rows = max(1, int(places**0.5))
        table = F.interpolate(
            visual.positional_embedding[1:].t().reshape(1, width, side, side), (rows, places // rows), mode="bilinear", align_corners=False
        )
        looks = (table[0].flatten(1).t()[None] + self.temporal[:, None]).flatten(0, 1)
        pooler.query[1 : 1 + len(looks)] = looks
        nn.init.orthogonal_(pooler.attn.in_proj_weight[:width])
        pooler.attn.in_proj_weight[width : 2 * width] = pooler.attn.in_proj_weight[:width]
        pooler.ln_q.weight.fill_(4.0)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position table [1 + n, D] for a grid of patches; read in between (bicubic) where it is not the square one."""
        table, side = self.visual.positional_embedding, self.config.image_px // self.config.patch_px
        if grid == (side, side):
            return table
        square = table[1:].view(1, side, side, -1).permute(0, 3, 1, 2)
        read = F.interpolate(square, grid, mode="bicubic", align_corners=False)
        return torch.cat([table[:1], read[0].flatten(1).t()])

    def frame_tokens(self, x: Tensor) -> Tensor:
        """[B, T, 3, H, W] to tokens [B, T, 1 + n, D] of the frame ViT, class token first."""
        visual = self.visual
        batch, frames = x.shape[:2]
        change = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], dim=1)
        if self.config.stem == "conv":  # and what was there before: a difference alone does not say which of the two is the thing
            change = torch.cat([change, x - change], dim=2)
        patches = visual.conv1(x.flatten(0, 1))
        grid = (patches.shape[2], patches.shape[3])
        h = patches.flatten(2).transpose(1, 2)
        h = torch.cat([visual.class_embedding.expand(h.shape[0], 1, -1), h], dim=1) + self.positions(grid)
        h = visual.ln_pre(h)
        if frames > 1:
            seen = self.difference(change.flatten(0, 1)).flatten(2).transpose(1, 2)
            h = torch.cat([h[:, :1], h[:, 1:] + seen], dim=1)
        h = visual.transformer(h).unflatten(0, (batch, frames))
        return h + self.temporal[:frames, None]

    def encode_clip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding [B, E] of length 1 and the tokens [B, Q - 1, E] that the decoder reads."""
        pooled, tokens = self.visual._pool(self.frame_tokens(x).flatten(1, 2))
        return F.normalize(pooled @ self.visual.proj, dim=-1), tokens

    def forward(self, clips: Tensor, text: Tensor, with_contrast: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:  # type: ignore[override]
        """clips: [B, T, 3, H, W]; text: [B, L]. Returns clip embeddings [B, E], text embeddings [B, E] or None, logits [B, L - 1, V] of tokens 1 .. L - 1."""
        embedding, tokens = self.encode_clip(clips)
        text_embedding, states = self._encode_text(text)
        logits = self.text_decoder(tokens, states[:, :-1])
        return embedding, text_embedding if with_contrast else None, logits


def load_open_clip(name: str, weights: Path) -> VideoCoCa:
    """A video model from an image CoCa of open_clip; what it lacks (temporal positions, difference embedding) starts at zero.

    Args:
        name: open_clip's configuration.
        weights: its state dict, as safetensors or as a torch file (read with `weights_only`).

    Raises:
        UsageError: the file does not fit the configuration.
    """
    from captioner.coca.config import from_open_clip

    found: dict = load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, map_location="cpu", weights_only=True)
    found = found.get("state_dict", found)
    state = {key.removeprefix("module."): value for key, value in found.items()}
    model = VideoCoCa(from_open_clip(name))
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [key for key in missing if not key.startswith(EXTRA)]
    if missing or unexpected:
        raise UsageError(str(weights), f"does not fit {name}: lacks {missing[:3]}, has {unexpected[:3]} too many")
    return model.eval()


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
