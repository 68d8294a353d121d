"""Where samples, texts and noise levels lie in a pack: known on the CPU, so that no pass waits for a device.

Shape legend: N tokens of this process, S samples, M distinct noise levels, P pieces of tokens of one level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.model.kernels import pieces_of
from trainer.model.sequence import SequenceGroup


class Levels(NamedTuple):
    """The noise levels of tokens. A tuple: FSDP finds tensors in tuples, not in dataclasses."""

    distinct: Tensor  # [M], rising
    of: Tensor  # [N] which of them a token has
    lengths: Tensor  # [P] tokens of each piece
    levels: Tensor  # [P] which level a piece has

    def each(self, change: Callable[[Tensor], Tensor]) -> Levels:
        return Levels(*map(change, self))

    @staticmethod
    def like(distinct: Tensor, of: Tensor) -> Levels:
        """Of tokens whose levels are known, on the CPU."""
        return Levels(distinct, of, *pieces_of(of))


@dataclass(frozen=True)
class Layout:
    """A pack's offsets [S + 1] and levels, on the CPU.

    Attributes:
        at: offsets of samples among all tokens of the pack.
        local_at: the same among the tokens of this process.
        text_at: offsets of their texts.
    """

    at: Tensor
    local_at: Tensor
    text_at: Tensor
    levels: Levels

    @staticmethod
    def of(sigma: Tensor, cu: Tensor, text_cu: Tensor, group: SequenceGroup | None) -> Layout:
        """Of a pack's tensors; where they lie on a device, this waits for it.

        Args:
            sigma: noise levels [N] of this process' tokens; cu, text_cu: [S + 1] offsets of all.
            group: the processes that share the pack.
        """
        at, text_at = cu.cpu(), text_cu.cpu()
        distinct, of = torch.unique(sigma.cpu(), return_inverse=True)
        local_at = at if group is None else group.offsets(at)
        return Layout(at, local_at, text_at, Levels.like(distinct, of))

    def pinned(self) -> Layout:
        """The same with levels in pinned memory, from which a GPU copies asynchronously."""
        return replace(self, levels=self.levels.each(Tensor.pin_memory))


@dataclass(frozen=True)
class JointLayout:
    """The order of a joint stream: the words of each sample follow its tokens.

    Two samples of 2 and 1 tokens with 1 and 2 words: tokens a a b and words u v v become a a u b v v.
    """

    num_tokens: list[int]  # of each sample
    num_words: list[int]

    def interleave(self, tokens: Tensor, words: Tensor) -> Tensor:
        """[N, ...] and [L, ...] to [N + L, ...]."""
        samples = zip(tokens.split(self.num_tokens), words.split(self.num_words), strict=True)
        return torch.cat([part for sample in samples for part in sample])

    def tokens_of(self, stream: Tensor) -> Tensor:
        """The inverse for the tokens: [N + L, ...] to [N, ...]."""
        lengths = [length for pair in zip(self.num_tokens, self.num_words, strict=True) for length in pair]
        return torch.cat(stream.split(lengths)[::2])

    def levels(self, levels: Levels) -> Levels:
        """Levels of a stream, on the CPU: a word has the highest one of its sample's tokens."""
        samples = levels.of.split(self.num_tokens)
        highest = torch.stack([own.max() if len(own) else own.new_zeros(()) for own in samples])
        words = highest.repeat_interleave(torch.tensor(self.num_words))
        return Levels.like(levels.distinct, self.interleave(levels.of, words))
