"""Decoding captions with kept keys and values: greedy, nucleus or beam.

open_clip runs both text towers anew for each token.

The states of CoCa's text tower are causal and its class token comes last, so nothing that is kept ever
changes.

Sources: nucleus sampling, Holtzman et al. 2019 (arXiv:1904.09751).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from captioner.coca.model import VideoCoCa
from captioner.coca.tokenizer import PAD


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to choose tokens."""

    method: Literal["greedy", "nucleus", "beam"] = "greedy"
    top_p: float = 0.9
    """nucleus: the smallest set of tokens with this much probability."""
    temperature: float = 1.0
    """nucleus: below 1 likely tokens become likelier still, above 1 unlikely ones do."""
    beams: int = 4
    length_power: float = 0.7
    """beam: scores are sums of log-probabilities over length to this power."""
    max_tokens: int = 0
    """Most tokens of a caption; 0 for all the model has positions for."""
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """One decoded caption: ids after the start token, their log-probabilities, whether it ended."""

    ids: list[int]
    logprobs: list[float]
    is_finished: bool

    @property
    def mean_logprob(self) -> float:
        return sum(self.logprobs) / max(1, len(self.logprobs))


class Cache:
    """Keys and values of each self-attention, and those of the clip's tokens for each cross-attention.

    Rows can be reordered for beam search.
    """

    def __init__(self) -> None:
        self.own: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.clip: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def reorder(self, rows: Tensor) -> None:
        for kept in (self.own, self.clip):
            for module, (keys, values) in kept.items():
                kept[module] = (keys[rows], values[rows])


def _project(attention: nn.MultiheadAttention, x: Tensor, part: slice) -> Tensor:
    """Input projection of queries, keys or values, split into heads: [B, heads, L, K]."""
    d = attention.embed_dim
    span = slice(part.start * d, part.stop * d)
    y = F.linear(x, attention.in_proj_weight[span], attention.in_proj_bias[span])
    return y.unflatten(-1, (part.stop - part.start, attention.num_heads, -1)).movedim(2, 0)[0].transpose(1, 2)


_Q, _K, _V = slice(0, 1), slice(1, 2), slice(2, 3)


def _attend(attention: nn.MultiheadAttention, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(_project(attention, query, _Q), keys, values)
    return attention.out_proj(out.transpose(1, 2).flatten(2))


def _self_block(block: ResidualAttentionBlock, x: Tensor, cache: Cache) -> Tensor:
    """One residual block on the newest position [B, 1, D], over all positions so far."""
    h = block.ln_1(x)
    keys, values = _project(block.attn, h, _K), _project(block.attn, h, _V)
    if block in cache.own:
        before_keys, before_values = cache.own[block]
        keys, values = torch.cat([before_keys, keys], dim=2), torch.cat([before_values, values], dim=2)
    cache.own[block] = (keys, values)
    x = x + block.ls_1(_attend(block.attn, h, keys, values))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _cross_block(block: ResidualAttentionBlock, x: Tensor, tokens: Tensor, cache: Cache) -> Tensor:
    if block not in cache.clip:
        h = block.ln_1_kv(tokens)
        cache.clip[block] = (_project(block.attn, h, _K), _project(block.attn, h, _V))
    x = x + block.ls_1(_attend(block.attn, block.ln_1(x), *cache.clip[block]))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def step(model: VideoCoCa, ids: Tensor, position: int, tokens: Tensor, cache: Cache) -> Tensor:
    """Log-probabilities [B, V] of what follows `ids` [B], which stand at `position`."""
    text, decoder = model.text, model.text_decoder
    x = (text.token_embedding(ids) + text.positional_embedding[position])[:, None]
    for block in text.transformer.resblocks:
        x = _self_block(block, x, cache)
    memory, x = model.with_glimpse(tokens, x)
    for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
        x = _cross_block(cross, _self_block(block, x, cache), memory, cache)
    return _sayable(model.logits(x, tokens)[:, 0]).log_softmax(-1)


def _sayable(logits: Tensor) -> Tensor:
    """Padding is no text: the text tower would not see it."""
    logits[:, PAD] = -torch.inf
    return logits


@torch.no_grad()
def write(model: VideoCoCa, clips: Tensor, start: int, end: int, decoding: Decoding) -> list[Written]:
    """Caption clips [B, T, 3, H, W]. The caption of each does not depend on its neighbours in the batch."""
    _, tokens = model.encode_clip(clips)
    limit = min(decoding.max_tokens or model.config.context_length, model.config.context_length - 1)
    if decoding.method == "beam":
        return [
            _beam(model, tokens[index : index + 1], start, end, limit, decoding)
            for index in range(len(clips))
        ]
    cache, batch = Cache(), len(clips)
    generators = [torch.Generator().manual_seed(decoding.seed) for _ in range(batch)]
    ids = torch.full((batch,), start, device=clips.device)
    found: list[tuple[list[int], list[float]]] = [([], []) for _ in range(batch)]
    alive = torch.ones(batch, dtype=torch.bool, device=clips.device)
    for position in range(limit):
        logprobs = step(model, ids, position, tokens, cache)
        ids = logprobs.argmax(-1) if decoding.method == "greedy" else _nucleus(logprobs, decoding, generators)
        chosen = logprobs.gather(1, ids[:, None])[:, 0].tolist()
        for row, (token, logprob) in enumerate(zip(ids.tolist(), chosen, strict=True)):
            if alive[row]:
                found[row][0].append(token)
                found[row][1].append(logprob)
        alive &= ids != end
        if not alive.any():
            break
    return [
        Written([token for token in row if token != end], scores, bool(row and row[-1] == end))
        for row, scores in found
    ]


def _nucleus(logprobs: Tensor, decoding: Decoding, generators: list[torch.Generator]) -> Tensor:
    """A token of each row, drawn by its own generator."""
    scaled = (logprobs / decoding.temperature).softmax(-1).cpu()
    order = scaled.argsort(-1, descending=True)
    share = scaled.gather(1, order)
    share[(share.cumsum(-1) - share) > decoding.top_p] = 0
    drawn = torch.stack(
        [torch.multinomial(row, 1, generator=own) for row, own in zip(share, generators, strict=True)]
    )
    return order.gather(1, drawn)[:, 0].to(logprobs.device)


def _beam(model: VideoCoCa, tokens: Tensor, start: int, end: int, limit: int, decoding: Decoding) -> Written:
    """The best of `beams` hypotheses kept side by side, for one clip."""
    count, cache = decoding.beams, Cache()
    ids = torch.tensor([start], device=tokens.device)
    beams: list[tuple[float, list[int], list[float]]] = [(0.0, [], [])]
    done: list[tuple[float, Written]] = []
    for position in range(limit):
        logprobs = step(model, ids, position, tokens.expand(len(beams), -1, -1), cache)
        totals = logprobs + torch.tensor([score for score, _, _ in beams], device=logprobs.device)[:, None]
        best = totals.flatten().topk(min(2 * count, totals.numel()))
        kept: list[tuple[float, list[int], list[float]]] = []
        rows: list[int] = []
        for total, flat in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row, token = divmod(flat, logprobs.shape[1])
            _, so_far, scores = beams[row]
            if token == end:
                written = Written(so_far, [*scores, float(logprobs[row, token])], True)
                done.append((total / (len(so_far) + 1) ** decoding.length_power, written))
            elif len(kept) < count:
                kept.append((total, [*so_far, token], [*scores, float(logprobs[row, token])]))
                rows.append(row)
        worst_done = min(
            (score for score, _ in sorted(done, key=lambda item: -item[0])[:count]), default=-math.inf
        )
        if len(done) >= count and kept[0][0] / (position + 1) ** decoding.length_power < worst_done:
            break
        beams, ids = kept, torch.tensor([so_far[-1] for _, so_far, _ in kept], device=tokens.device)
        cache.reorder(torch.tensor(rows, device=tokens.device))
    if done:
        return max(done, key=lambda item: item[0])[1]
    return Written(beams[0][1], beams[0][2], False)


@torch.no_grad()
def write_uncached(model: VideoCoCa, clips: Tensor, start: int, end: int, max_tokens: int) -> list[list[int]]:
    """Greedy decoding without a cache: both towers run on the whole text for each token. An oracle."""
    _, tokens = model.encode_clip(clips)
    ids = torch.full((len(clips), 1), start, device=clips.device)
    for _ in range(max_tokens):
        _, states = model._encode_text(ids)
        ids = torch.cat([ids, _sayable(model.decode(tokens, states)[:, -1]).argmax(-1, keepdim=True)], dim=1)
    return ids[:, 1:].tolist()
