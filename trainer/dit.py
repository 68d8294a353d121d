"""A diffusion transformer on packed spacetime patches with a noise level per token.

Shape legend: N packed tokens, S samples, D width, H heads, K head width, P patch values, L packed text tokens.

Sources: DiT (Peebles and Xie 2023, arXiv:2212.09748); AdaLN-single with per-block offsets (PixArt-alpha, arXiv:2310.00426); RMS QK-norm
(arXiv:2302.05442); rotary positions (arXiv:2104.09864), here over seconds, rows and columns without a largest position; SwiGLU (arXiv:2002.05202).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.attention import Documents, attend, documents
from trainer.config import ModelConfig
from trainer.sequence import SequenceGroup

SECONDS_TO_TOKENS = 4.0  # one latent of a 16 fps clip is a quarter of a second: brings time to the scale of rows and columns


def rope_angles(coords: Tensor, head_width: int, theta: float) -> Tensor:
    """Angles [N, K/2] of three axes: a quarter of the pairs for time, the rest shared by rows and columns."""
    pairs = head_width // 2
    count_t = pairs // 4
    count_y = (pairs - count_t) // 2
    parts = []
    for axis, count in ((0, count_t), (1, count_y), (2, pairs - count_t - count_y)):
        frequency = theta ** (-torch.arange(count, device=coords.device) / count)
        scale = SECONDS_TO_TOKENS if axis == 0 else 1.0
        parts.append(coords[:, axis, None].float() * scale * frequency)
    return torch.cat(parts, dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of x [N, H, K] by angles [N, K/2]."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class RMSNorm32(nn.RMSNorm):
    """RMS norm computed in fp32 whatever its input and its weight are kept in; the output is as the input."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.float()
        return F.rms_norm(x.float(), self.normalized_shape, weight, self.eps).to(x.dtype)


def linear32(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer in fp32, also where all else is computed in less: noise levels and what they modulate need it."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), layer.weight.float(), layer.bias.float())


class SigmaEmbedding(nn.Module):
    """Noise level [n] in [0, 1] to [n, D], in fp32."""

    def __init__(self, width: int, num_frequencies: int = 128) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.up, self.out = nn.Linear(2 * num_frequencies, width), nn.Linear(width, width)

    def forward(self, sigma: Tensor) -> Tensor:
        rates = torch.exp(-math.log(1e4) * torch.arange(self.num_frequencies, device=sigma.device) / self.num_frequencies)
        angles = 1000.0 * sigma.float()[:, None] * rates
        return linear32(self.out, F.silu(linear32(self.up, torch.cat([angles.cos(), angles.sin()], dim=-1))))


class DiTBlock(nn.Module):
    """Self-attention within the sample, cross-attention to its text (unless text is part of the sequence), SwiGLU; each modulated by the token's noise level."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, self.num_heads, self.is_joint = config.width, config.num_heads, config.text == "joint"
        hidden = 8 * d // 3 // 16 * 16
        k = d // config.num_heads
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.q_norm, self.k_norm = RMSNorm32(k), RMSNorm32(k)
        if not self.is_joint:
            self.cross_q, self.cross_kv, self.cross_out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
            self.cross_q_norm, self.cross_k_norm = RMSNorm32(k), RMSNorm32(k)
            self.norm2 = RMSNorm32(d, elementwise_affine=False)
        self.up, self.down = nn.Linear(d, 2 * hidden), nn.Linear(hidden, d)
        self.norm1, self.norm3 = (RMSNorm32(d, elementwise_affine=False) for _ in range(2))
        self.offset = nn.Parameter(torch.zeros(6, d))
        self.sequence: SequenceGroup | None = None

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def forward(self, x: Tensor, levels: Tensor, which: Tensor, angles: Tensor, samples: Documents, text: Tensor, words: Documents) -> Tensor:
        """x: [N, D]; levels: [M, 6, D], the modulation of each noise level; which: [N], the level of each token; angles: [N, K/2]; text: [L, D], not read where it is part of x. `samples`: all tokens of the pack, also those elsewhere;
        `words`: the tokens here beside their texts."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (part[which] for part in (levels + self.offset).unbind(dim=1))
        h = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = (self._heads(part) for part in self.qkv(h).chunk(3, dim=-1))
        q, k = rotate(self.q_norm(q), angles), rotate(self.k_norm(k), angles)
        if self.sequence is None:
            seen = attend(q, k, v, samples)
        else:
            q, k, v = (self.sequence.to_heads(part.to(v.dtype)) for part in (q, k, v))
            seen = self.sequence.to_tokens(attend(q, k, v, samples))
        x = x + gate1 * self.out(seen.flatten(1))
        if not self.is_joint:
            q = self.cross_q_norm(self._heads(self.cross_q(self.norm2(x))))
            k, v = (self._heads(part) for part in self.cross_kv(text).chunk(2, dim=-1))
            x = x + self.cross_out(attend(q, self.cross_k_norm(k), v, words).flatten(1))
        h = self.norm3(x) * (1 + scale2) + shift2
        up, gate = self.up(h).chunk(2, dim=-1)
        return x + gate2 * self.down(F.silu(gate) * up)


def initial_value(name: str, shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
    """What a weight of the DiT begins with, by its name in the plain model: Xavier, but the layers whose output is added begin with zero, so a new model predicts zero."""
    parts = name.split(".")
    is_closed = parts[0] in {"modulation", "final_modulation", "head"} or "cross_out" in parts
    if is_closed or parts[-1] in {"bias", "offset"}:
        return torch.zeros(shape)
    if name == "null_text":
        return torch.randn(shape, generator=generator) * 0.02
    if len(shape) == 1:
        return torch.ones(shape)
    bound = (6 / (shape[0] + shape[1])) ** 0.5
    return torch.rand(shape, generator=generator) * 2 * bound - bound


class DiT(nn.Module):
    """Predicts the velocity of every token of a pack."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        values = config.latent_channels * math.prod(config.patch)
        self.embed = nn.Linear(values + 2, d)  # + whether the token is given, + whether it is of the first latent frame
        self.sigma = SigmaEmbedding(d)
        self.modulation = nn.Linear(d, 6 * d)
        self.text = nn.Sequential(nn.Linear(config.text_width, d), nn.SiLU(), nn.Linear(d, d), RMSNorm32(d))
        self.null_text = nn.Parameter(torch.empty(config.text_width))
        self.blocks = nn.ModuleList([DiTBlock(config) for _ in range(config.depth)])
        self.final_norm, self.final_modulation = RMSNorm32(d, elementwise_affine=False), nn.Linear(d, 2 * d)
        self.head = nn.Linear(d, values)
        self.sequence: SequenceGroup | None = None
        with torch.no_grad():
            for name, value in self.named_parameters():
                if not value.is_meta:
                    value.copy_(initial_value(name, value.shape))

    def share_sequence(self, group: SequenceGroup | None) -> None:
        """Let blocks attend over a group of processes that each hold a part of the tokens; None: this process holds all."""
        self.sequence = group
        for module in self.modules():  # blocks may be wrapped
            if isinstance(module, DiTBlock):
                module.sequence = group

    def forward(self, x: Tensor, sigma: Tensor, known: Tensor, coords: Tensor, cu: Tensor, text: Tensor, text_cu: Tensor) -> Tensor:
        """Velocity [N, P].

        Args:
            x: noisy tokens [N, P].
            sigma: noise level of each token [N], 0 for given ones.
            known: 1 for tokens that are given clean [N].
            coords: [N, 3] seconds, row, column.
            cu, text_cu: [S + 1] offsets of samples in x and text.
            text: [L, Dt]; an all-zero row stands for no text.

        With `share_sequence` x, sigma, known and coords are this process' part, cu and the text are whole.
        """
        is_null = (text == 0).all(dim=-1, keepdim=True)
        words = self.text(torch.where(is_null, self.null_text.to(text.dtype), text))
        first = (coords[:, 0] == 0).to(x.dtype)
        h = self.embed(torch.cat([x, known[:, None].to(x.dtype), first[:, None]], dim=-1))
        distinct, which = torch.unique(sigma, return_inverse=True)  # few distinct levels: modulate those, and look up in each block
        level = F.silu(self.sigma(distinct))
        levels = linear32(self.modulation, level).unflatten(-1, (6, -1))
        angles = rope_angles(coords, self.config.width // self.config.num_heads, self.config.rope_theta)
        if self.config.text == "joint":
            h = self._joint(h, levels, which, angles, cu, words, text_cu)
        else:
            kind = attention_dtype(h)
            samples, texts = documents(cu, cu, kind), documents(cu if self.sequence is None else self.sequence.offsets(cu), text_cu, kind)
            for block in self.blocks:
                h = block(h, levels, which, angles, samples, words, texts)
        shift, scale = linear32(self.final_modulation, level)[which].chunk(2, dim=-1)
        return self.head(self.final_norm(h) * (1 + scale) + shift)

    def _joint(self, h: Tensor, levels: Tensor, which: Tensor, angles: Tensor, cu: Tensor, words: Tensor, text_cu: Tensor) -> Tensor:
        """All blocks over one stream in which each sample's words follow its tokens: words have the highest noise level of the sample, which is not that of given tokens, and no
        position."""
        counts, word_counts = cu.diff(), text_cu.diff()
        owner = torch.arange(len(counts), device=h.device)
        place = torch.arange(len(h), device=h.device) + torch.repeat_interleave(text_cu[:-1], counts)
        word_place = torch.arange(len(words), device=h.device) + torch.repeat_interleave(cu[1:], word_counts)
        highest = which.new_zeros(len(counts)).scatter_reduce(0, torch.repeat_interleave(owner, counts), which, "amax")  # levels are in rising order
        order = torch.cat([place, word_place]).argsort()
        stream = torch.cat([h, words.to(h.dtype)])[order]
        levels_at = torch.cat([which, torch.repeat_interleave(highest, word_counts)])[order]
        turns = torch.cat([angles, angles.new_zeros(len(words), angles.shape[1])])[order]
        both = torch.cat([owner.new_zeros(1), (counts + word_counts).cumsum(0)])
        samples = documents(both, both, attention_dtype(h))
        for block in self.blocks:
            stream = block(stream, levels, levels_at, turns, samples, words, samples)
        return stream[place]


def attention_dtype(x: Tensor) -> torch.dtype:
    """What linear layers give here: under autocast half precision, whatever x is."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
