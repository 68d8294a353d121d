"""Tokens of captions: our byte-level BPE, whose padding is no text, and CLIP's for released weights.

In CLIP's vocabulary as open_clip's CoCa uses it, padding is token 0, which is also "!": every "!" is masked
and can never be learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from captioner.coca.phrases import with_phrases
from manifests.store import storage
from manifests.text import valid

if TYPE_CHECKING:
    from torch import Tensor

PAD, START, END = 0, 1, 2


class Tokens(Protocol):
    """Text to ids and back."""

    start: int
    end: int
    vocab_size: int
    fills_context: bool
    """Texts are padded to the whole context, for the model's class token comes after the padding."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without start and end."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, up to the end."""


class CaptionTokenizer:
    """Byte-level BPE trained on captions: any text can be said, and common words and phrases are one token.

    Ids 0, 1, 2 are padding, start and end.
    """

    start, end, fills_context = START, END, False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.get_vocab_size()

    @staticmethod
    def train(texts: Iterable[str], vocab_size: int) -> CaptionTokenizer:
        """A tokenizer of the most frequent merges in `texts`, the last fifth of them phrases.

        See `with_phrases`.
        """
        texts = list(texts)
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - vocab_size // 5,
            special_tokens=["<pad>", "<start>", "<end>"],
            initial_alphabet=alphabet,
            show_progress=False,
            min_frequency=2,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return CaptionTokenizer(with_phrases(tokenizer, texts, vocab_size))

    @staticmethod
    def load(path: Path) -> CaptionTokenizer:
        return CaptionTokenizer(Tokenizer.from_file(str(path)))

    def save(self, path: Path) -> None:
        storage.write_local(path, self.tokenizer.to_str(pretty=True).encode())

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(valid(text)).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode([token for token in until(ids, END) if token > END]).strip()


class ClipTokenizer:
    """CLIP's own, for released weights."""

    fills_context = True

    def __init__(self) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self.tokenizer = SimpleTokenizer()
        self.start, self.end, self.vocab_size = (
            self.tokenizer.sot_token_id,
            self.tokenizer.eot_token_id,
            self.tokenizer.vocab_size,
        )

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(
            [token for token in until(ids, self.end) if token not in {PAD, self.start}]
        ).strip()


def until(ids: Sequence[int], end: int) -> list[int]:
    """Ids before the first `end`."""
    found = [int(token) for token in ids]
    return found[: found.index(end)] if end in found else found


def batch(tokenizer: Tokens, texts: Sequence[str], context_length: int) -> Tensor:
    """[B, L] ids with start, end and padding; too long texts lose their tail.

    L is the longest of the batch, or the context for a tokenizer that fills it.
    """
    import torch

    rows = [[tokenizer.start, *tokenizer.encode(text), tokenizer.end][:context_length] for text in texts]
    length = context_length if tokenizer.fills_context else max(len(row) for row in rows)
    out = torch.full((len(rows), length), PAD, dtype=torch.long)
    for index, row in enumerate(rows):
        out[index, : len(row)] = torch.tensor(row)
    return out
