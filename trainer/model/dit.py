"""A diffusion transformer on packed spacetime patches with a noise level per token.

Shape legend: N packed tokens, S samples, D width, H heads, K head width, P patch values, L packed text
tokens.

Sources: DiT (Peebles and Xie 2023, arXiv:2212.09748); AdaLN-single with per-block offsets (PixArt-alpha,
arXiv:2310.00426); RMS QK-norm (arXiv:2302.05442); rotary positions (arXiv:2104.09864), here over seconds,
rows and columns without a largest position; SwiGLU (arXiv:2002.05202).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.model.attention import Documents, attend, documents
from trainer.model.kernels import look_up
from trainer.model.layout import JointLayout, Layout, Levels
from trainer.model.ring import RingPlan, attend_ring
from trainer.model.sequence import SequenceGroup

SECONDS_TO_TOKENS = (
    4.0  # one latent of a 16 fps clip is a quarter of a second: brings time to the scale of rows and columns
)


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


def rotary(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [N, 1, K/2] of angles [N, K/2], in fp32: made once a pass, read by every block."""
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of x [N, H, K] as `rotary` says."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class RMSNorm32(nn.RMSNorm):
    """RMS norm computed in fp32 whatever its input and its weight are kept in; the output is as the input."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.float()
        return F.rms_norm(x.float(), self.normalized_shape, weight, self.eps).to(x.dtype)


def linear32(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer in fp32 also under autocast: noise levels and modulation need it."""
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), layer.weight.float(), layer.bias.float())


class SigmaEmbedding(nn.Module):
    """Noise level [n] in [0, 1] to [n, D], in fp32."""

    def __init__(self, width: int, num_frequencies: int = 128) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.up, self.out = nn.Linear(2 * num_frequencies, width), nn.Linear(width, width)

    def forward(self, sigma: Tensor) -> Tensor:
        rates = torch.exp(
            -math.log(1e4) * torch.arange(self.num_frequencies, device=sigma.device) / self.num_frequencies
        )
        angles = 1000.0 * sigma.float()[:, None] * rates
        return linear32(self.out, F.silu(linear32(self.up, torch.cat([angles.cos(), angles.sin()], dim=-1))))


class Modulation(NamedTuple):
    """Adaptive layer norm of one sub-layer, per token [N, D] (DiT, section 3.2)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def apply(self, h: Tensor) -> Tensor:
        return h * (1 + self.scale) + self.shift


class BlockContext(NamedTuple):
    """What all blocks of a forward pass share. A tuple: FSDP finds tensors in tuples, not in dataclasses."""

    modulation: Tensor  # [M, 6, D] of each distinct noise level
    levels: Levels  # which of the M levels a token has
    cos: Tensor  # [N, 1, K/2] of its rotary angles
    sin: Tensor
    samples: Documents  # self-attention: all tokens of the pack, also those on other processes
    text: Tensor  # [L, D]; read by cross-attention only
    captions: Documents | None  # cross-attention: the tokens here and the text of their samples
    ring: RingPlan | None = None  # what parts of the pack exchange, where it is held in parts
    long_from: int | None = None  # tokens from which a document has a kernel to itself


class DiTBlock(nn.Module):
    """Self-attention within a sample, cross-attention to its text (not in a joint stream), SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, self.num_heads, self.is_joint = config.width, config.num_heads, config.text == "joint"
        hidden = config.hidden_width
        k = d // config.num_heads
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.q_norm, self.k_norm = RMSNorm32(k), RMSNorm32(k)
        if not self.is_joint:
            self.cross_q, self.cross_kv, self.cross_out = (
                nn.Linear(d, d),
                nn.Linear(d, 2 * d),
                nn.Linear(d, d),
            )
            self.cross_q_norm, self.cross_k_norm = RMSNorm32(k), RMSNorm32(k)
            self.norm2 = RMSNorm32(d, elementwise_affine=False)
        self.up, self.down = nn.Linear(d, 2 * hidden), nn.Linear(hidden, d)
        self.norm1, self.norm3 = (RMSNorm32(d, elementwise_affine=False) for _ in range(2))
        self.offset = nn.Parameter(torch.zeros(6, d))
        self.sequence: SequenceGroup | None = None
        self.is_half_stream = False

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """x: [N, D]; returns [N, D]."""
        attention, mlp = self._modulation(context)
        x = self._plus(x, attention.gate * self._self_attention(attention.apply(self.norm1(x)), context))
        if not self.is_joint:
            x = self._plus(x, self._cross_attention(self.norm2(x), context))
        return self._plus(x, mlp.gate * self._mlp(mlp.apply(self.norm3(x))))

    def _plus(self, x: Tensor, change: Tensor) -> Tensor:
        """The residual stream, in fp32 where gates are; or kept in half precision, added up in fp32."""
        return (x + change).to(x.dtype) if self.is_half_stream else x + change

    def _modulation(self, context: BlockContext) -> tuple[Modulation, Modulation]:
        """Of self-attention and of the MLP: the shared modulation plus this block's offset."""
        table, levels = (context.modulation + self.offset).flatten(1), context.levels
        parts = look_up(table, levels.of, levels.lengths, levels.levels).unflatten(1, (6, -1)).unbind(dim=1)
        return Modulation(*parts[:3]), Modulation(*parts[3:])

    def _self_attention(self, h: Tensor, context: BlockContext) -> Tensor:
        q, k, v = (self._heads(part) for part in self.qkv(h).chunk(3, dim=-1))  # [N, H, K] each
        q, k = (rotate(norm(x), context.cos, context.sin) for norm, x in ((self.q_norm, q), (self.k_norm, k)))
        if self.sequence is None:
            return self.out(attend(q, k, v, context.samples).flatten(1))
        q, k, v = self.sequence.to_heads(*(part.to(v.dtype) for part in (q, k, v)))
        of = context.samples
        attended = (
            attend(q, k, v, of)
            if context.ring is None
            else attend_ring(q, k, v, of.cu_q, of.at_q, context.long_from, context.ring)
        )
        return self.out(self.sequence.to_tokens(attended).flatten(1))

    def _cross_attention(self, h: Tensor, context: BlockContext) -> Tensor:
        assert context.captions is not None
        q = self.cross_q_norm(self._heads(self.cross_q(h)))
        k, v = (self._heads(part) for part in self.cross_kv(context.text).chunk(2, dim=-1))
        return self.cross_out(attend(q, self.cross_k_norm(k), v, context.captions).flatten(1))

    def _mlp(self, h: Tensor) -> Tensor:
        up, gate = self.up(h).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def initial_value(name: str, shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
    """Initial value of a weight by its name: Xavier, but zero for layers whose output is added.

    So a new model predicts zero.
    """
    parts = name.split(".")
    is_closed = parts[0] in {"modulation", "final_modulation", "head"} or "lora_B" in parts
    is_closed = is_closed or ("cross_out" in parts and "lora_A" not in parts)
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
        self.embed = nn.Linear(
            values + 2, d
        )  # + whether the token is given, + whether it is of the first latent frame
        self.sigma = SigmaEmbedding(d)
        self.modulation = nn.Linear(d, 6 * d)
        self.text = nn.Sequential(nn.Linear(config.text_width, d), nn.SiLU(), nn.Linear(d, d), RMSNorm32(d))
        self.null_text = nn.Parameter(torch.empty(config.text_width))
        self.blocks = nn.ModuleList([DiTBlock(config) for _ in range(config.depth)])
        self.final_norm, self.final_modulation = RMSNorm32(d, elementwise_affine=False), nn.Linear(d, 2 * d)
        self.head = nn.Linear(d, values)
        self.sequence: SequenceGroup | None = None
        self.long_from: int | None = None
        with torch.no_grad():
            for name, value in self.named_parameters():
                if not value.is_meta:
                    value.copy_(initial_value(name, value.shape))

    def share_sequence(self, group: SequenceGroup | None) -> None:
        """Attend over a group of processes that each hold a part of the tokens; None: this one has all."""
        self.sequence = group
        for module in self.modules():  # blocks may be wrapped
            if isinstance(module, DiTBlock):
                module.sequence = group

    def keep_stream_half(self) -> None:
        """Keep the residual stream in what the linear layers compute in, which under autocast is half
        precision."""
        for module in self.modules():
            if isinstance(module, DiTBlock):
                module.is_half_stream = True

    def compile_ends(self) -> None:
        """Compile what follows the blocks, which are compiled on their own."""
        self._finish = torch.compile(self._finish, dynamic=True)  # type: ignore[method-assign]

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        known: Tensor,
        coords: Tensor,
        cu: Tensor,
        text: Tensor,
        text_cu: Tensor,
        layout: Layout | None = None,
    ) -> Tensor:
        """Velocity [N, P].

        Args:
            x: noisy tokens [N, P].
            sigma: noise level of each token [N], 0 for given ones.
            known: 1 for tokens that are given clean [N].
            coords: [N, 4] seconds, row, column, and 1 for tokens that hold the first latent of a clip.
            cu, text_cu: [S + 1] offsets of samples in x and text.
            text: [L, Dt]; an all-zero row stands for no text.
            layout: what `sigma`, `cu` and `text_cu` say, on the CPU; None: they are asked, which waits for
                their device.

        With `share_sequence` x, sigma, known and coords are this process' part, cu and the text are whole.
        """
        layout = layout or Layout.of(sigma, cu, text_cu, self.sequence)
        text = text.to(self.null_text.dtype)  # kept in half precision until here
        is_null = (text == 0).all(dim=-1, keepdim=True)
        words = self.text(torch.where(is_null, self.null_text, text))
        h = self.embed(torch.cat([x, known[:, None].to(x.dtype), coords[:, 3:].to(x.dtype)], dim=-1))
        # few distinct levels: modulate those, and look up in each block
        levels = layout.levels.each(lambda value: value.to(x.device, non_blocking=True))
        level = F.silu(self.sigma(levels.distinct))
        modulation = linear32(self.modulation, level).unflatten(-1, (6, -1))
        angles = rope_angles(
            self.positions(coords[:, :3], cu),
            self.config.width // self.config.num_heads,
            self.config.rope_theta,
        )
        dtype = attention_dtype(h)
        if self.config.text == "joint":
            h = self._joint(h, layout, modulation, angles, words)
        else:
            at = layout.at if self.sequence is None else self.sequence.part_offsets(layout.at)
            ring = None if self.sequence is None else self.sequence.ring_plan(layout.at)
            samples = documents(at, at, dtype, x.device, self.long_from)
            captions = documents(layout.local_at, layout.text_at, dtype, x.device, self.long_from)
            h = self._run_blocks(
                h,
                BlockContext(
                    modulation, levels, *rotary(angles), samples, words, captions, ring, self.long_from
                ),
            )
        return self._finish(h, level, levels)

    def _finish(self, h: Tensor, level: Tensor, levels: Levels) -> Tensor:
        """Velocity of tokens h [N, D], given the embedding [M, D] of the distinct noise levels."""
        table = linear32(self.final_modulation, level)
        shift, scale = look_up(table, levels.of, levels.lengths, levels.levels).chunk(2, dim=-1)
        return self.head(self.final_norm(h) * (1 + scale) + shift)

    def positions(self, coords: Tensor, cu: Tensor) -> Tensor:
        """[N, 3]: what of a token's place its rotary angles tell, on each of their three axes.

        All of it here; an experiment that withholds a part overrides this (experiments/positions.py).
        """
        return coords

    def _run_blocks(self, h: Tensor, context: BlockContext) -> Tensor:
        for block in self.blocks:
            h = block(h, context)
        return h

    def _joint(self, h: Tensor, layout: Layout, modulation: Tensor, angles: Tensor, words: Tensor) -> Tensor:
        """Run the blocks on one stream of tokens and words; returns the tokens [N, D].

        Words have no position, and the noise level of those tokens of their sample that are not given.

        Args:
            h: tokens [N, D]; words: [L, D].
            modulation: [M, 6, D] of the distinct noise levels; angles: [N, K/2].
        """
        order = JointLayout(layout.at.diff().tolist(), layout.text_at.diff().tolist())
        levels = order.levels(layout.levels).each(lambda value: value.to(h.device, non_blocking=True))
        both = layout.at + layout.text_at
        samples = documents(both, both, attention_dtype(h), h.device, self.long_from)
        places = rotary(order.interleave(angles, angles.new_zeros(len(words), angles.shape[1])))
        context = BlockContext(modulation, levels, *places, samples, words, None)
        return order.tokens_of(self._run_blocks(order.interleave(h, words.to(h.dtype)), context))


def attention_dtype(x: Tensor) -> torch.dtype:
    """What linear layers give here: under autocast half precision, whatever x is."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
