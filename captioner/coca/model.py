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
    """Pixels to patch embeddings by convolutions at full size, each halved after: shapes a few patches wide are told here, with far less data than patches need.

    Its group norms take the background's share out of every picture, so that what is small and different stands out; the maxima keep it.
    """

    def __init__(self, channels: int, width: int, patch_px: int) -> None:
        super().__init__()
        halvings = patch_px.bit_length() - 1
        sizes = [min(width, 16 * 2**level) for level in range(halvings)] + [width]
        self.convs = nn.ModuleList([nn.Conv2d(c_in, c_out, 3, padding=1, bias=False) for c_in, c_out in zip([channels, *sizes], sizes, strict=False)])
        self.norms = nn.ModuleList([nn.GroupNorm(8, size) for size in sizes])
        self.halvings = halvings

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, D, H / patch, W / patch]."""
        for level, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            if level < self.halvings:
                x = F.max_pool2d(x, 2)
        return x


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
            self.glimpse = nn.Linear(4 * width, config.text_width)
            self.words = nn.Linear(4 * width, config.vocab_size)
            nn.init.constant_(self.words.bias, -2.0)  # most words are not said
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

    def _change(self, x: Tensor) -> Tensor:
        """What the difference embedding sees of frames [B, T, 3, H, W]: what changed since the frame before, and for the deep stem what was there before."""
        change = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], dim=1)
        return (
            torch.cat([change, x - change], dim=2) if self.config.stem == "conv" else change
        )  # a difference alone does not say which of the two is the thing

    def frame_tokens(self, x: Tensor) -> Tensor:
        """[B, T, 3, H, W] to tokens [B, T, 1 + n, D] of the frame ViT, class token first."""
        visual = self.visual
        batch, frames = x.shape[:2]
        patches = visual.conv1(x.flatten(0, 1))
        grid = (patches.shape[2], patches.shape[3])
        h = patches.flatten(2).transpose(1, 2)
        h = torch.cat([visual.class_embedding.expand(h.shape[0], 1, -1), h], dim=1) + self.positions(grid)
        h = visual.ln_pre(h)
        if frames > 1:
            seen = self.difference(self._change(x).flatten(0, 1)).flatten(2).transpose(1, 2)
            h = torch.cat([h[:, :1], h[:, 1:] + seen], dim=1)
        h = visual.transformer(h).unflatten(0, (batch, frames))
        return h + self.temporal[:frames, None]

    def encode_clip(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding [B, E] of length 1 and the tokens that the decoder reads: [B, Q - 1, E], and one more where the model has a glimpse.

        The glimpse is a linear map of the patches' maxima and means. It reaches every word of the caption directly: attention over many tokens begins as a mean in
        which a small thing is lost, and learns from captions alone only once there is something to attend to.
        """
        h = self.frame_tokens(x)
        pooled, tokens = self.visual._pool(h.flatten(1, 2))
        if self.config.stem == "conv":
            patches = h[:, :, 1:]
            most, mean = patches.amax(2), patches.mean(2)
            seen = torch.cat([most.amax(1), most.mean(1), mean.mean(1), most[:, -1] - most[:, 0]], dim=-1)
            tokens = torch.cat([tokens, self.glimpse(seen)[:, None]], dim=1)
        return F.normalize(pooled @ self.visual.proj, dim=-1), tokens

    def with_glimpse(self, tokens: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """What `encode_clip` gave, parted: the tokens to attend to, and the text states [B, L, D] with the glimpse added to each."""
        return (tokens[:, :-1], states + tokens[:, -1:]) if self.config.stem == "conv" else (tokens, states)

    def word_logits(self, x: Tensor) -> Tensor:
        """[B, V]: for each token, whether a caption of the clip [B, T, 3, H, W] would have it, by the stems alone.

        To classify a picture by the words of its caption teaches a stem what a label would, from captions alone and without a text tower (Joulin et al. 2016,
        arXiv:1511.02251; Huang et al. 2024, arXiv:2411.03313).
        """
        batch, frames = x.shape[:2]
        here = self.visual.conv1(x.flatten(0, 1)).unflatten(0, (batch, frames))
        found = [here.amax((3, 4)).mean(1), here.mean((1, 3, 4))]
        if frames > 1:
            moved = self.difference(self._change(x)[:, 1:].flatten(0, 1)).unflatten(0, (batch, frames - 1))
            found += [moved.amax((3, 4)).mean(1), moved.mean((1, 3, 4))]
        else:
            found += [torch.zeros_like(found[0])] * 2
        return self.words(torch.cat(found, dim=-1))

    def forward(self, clips: Tensor, text: Tensor, with_contrast: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:  # type: ignore[override]
        """clips: [B, T, 3, H, W]; text: [B, L]. Returns clip embeddings [B, E], text embeddings [B, E] or None, logits [B, L - 1, V] of tokens 1 .. L - 1."""
        embedding, tokens = self.encode_clip(clips)
        text_embedding, states = self._encode_text(text)
        logits = self.text_decoder(*self.with_glimpse(tokens, states[:, :-1]))
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
