"""Phrases as tokens of a byte-level BPE: words that hardly occur apart become one token.

"left" alone says neither whose nor of what; "moves from right to left" and "The camera pans left" do. But a
colour before a shape must stay two tokens, for there any goes with any. So two neighbours are joined not for
how often they occur but for how much they belong together: the Ochiai coefficient n(ab) / sqrt(n(a) n(b)).

Sources: merges across spaces, after those within words, as in SuperBPE (Liu et al. 2025, arXiv:2503.13423);
scores of pairs, taken in rounds, as for the phrases of word2vec (Mikolov et al. 2013, arXiv:1310.4546); the
coefficient, Ochiai 1957.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, pre_tokenizers

BELONG = 0.38
"""Least coefficient of a phrase. A slot of eight before a slot of five has about .15, "that" before one of
five ways to move .45."""
SHARE = 0.004
"""Least share of the texts that a phrase occurs in."""

Lines = Counter[tuple[str, ...]]
"""Texts as rows of words and phrases, each with how often it occurs."""


def with_phrases(tokenizer: Tokenizer, texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """The tokenizer with merges across words added, up to `vocab_size` tokens in all.

    Its merges so far must each lie within a word. They come first, so a text is split into words as before,
    and then words are joined.
    """
    lines: Lines = Counter()
    for text, times in Counter(texts).items():
        lines[tuple(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))] += times
    least = SHARE * lines.total()
    record = json.loads(tokenizer.to_str())
    vocab, merges = record["model"]["vocab"], record["model"]["merges"]
    while len(vocab) < vocab_size and (found := _closest(lines, vocab, least)):
        vocab["".join(found)] = len(vocab)
        merges.append(list(found))
        lines = _joined(lines, *found)
    joined = Tokenizer.from_str(json.dumps(record))
    joined.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    return joined


def _closest(lines: Lines, vocab: dict[str, int], least: float) -> tuple[str, str] | None:
    """The neighbours that belong together most, of those that are tokens already."""
    single: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for line, times in lines.items():
        for word in line:
            single[word] += times
        for pair in itertools.pairwise(line):
            pairs[pair] += times
    scored = [
        (count / math.sqrt(single[a] * single[b]), a, b)
        for (a, b), count in pairs.items()
        if count >= least and a in vocab and b in vocab
    ]
    score, first, second = max(scored, default=(0.0, "", ""))
    return (first, second) if score >= BELONG else None


def _joined(lines: Lines, first: str, second: str) -> Lines:
    out: Lines = Counter()
    for line, times in lines.items():
        row: list[str] = []
        for word in line:
            if row and row[-1] == first and word == second:
                row[-1] += second
            else:
                row.append(word)
        out[tuple(row)] += times
    return out


__all__ = ["with_phrases"]
