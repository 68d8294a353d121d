"""Text encoders: a caption to a ragged sequence of token embeddings.

`HashedWordEncoder` is what its name says: each word has a fixed random vector made from its hash, plus a
position. It has learnt nothing and knows no synonyms; it is deterministic, needs no weights, and lets a model
learn the words it is trained on.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from typing import Protocol

import torch
from torch import Tensor

_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")


class TextEncoder(Protocol):
    """Encodes texts to ragged token embeddings."""

    name: str
    version: str
    width: int

    def setup(self) -> None:
        """Load weights; called once in the process that encodes."""

    def encode(self, texts: list[str]) -> list[Tensor]:
        """For each text, [num_tokens, width] float32 with num_tokens >= 1."""


@functools.lru_cache(maxsize=65536)
def _word_vector(word: str, width: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:7], "big")
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def _positions(count: int, width: int) -> Tensor:
    """Sinusoids [count, width] (Vaswani et al. 2017, section 3.5)."""
    rates = torch.exp(-math.log(1e4) * torch.arange(0, width, 2) / width)
    angles = torch.arange(count)[:, None] * rates[None]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class HashedWordEncoder:
    """One fixed random unit-variance vector per word, plus half a sinusoidal position.

    Empty text is one end token.
    """

    name, version, width = "hashed-words", "hashed-words/1", 128
    max_tokens = 256

    def setup(self) -> None:
        """Nothing to load."""

    def encode(self, texts: list[str]) -> list[Tensor]:
        out = []
        for text in texts:
            words = [*_WORD.findall(text.lower())[: self.max_tokens - 1], "<end>"]
            out.append(
                torch.stack([_word_vector(word, self.width) for word in words])
                + 0.5 * _positions(len(words), self.width)
            )
        return out
