"""CLIP's byte-pair tokenizer over the vocabulary file in the open_clip_torch wheel.

Byte-pair encoding: Sennrich et al., arXiv:1508.07909; over bytes: GPT-2;
lower-cased with word ends marked: CLIP, arXiv:2103.00020.  The vocabulary is read
without importing open_clip, which would take seconds.
"""

from __future__ import annotations

import gzip
import html
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import ftfy
import regex
import torch

_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_SIZE = 49408  # 256 bytes, the same at a word's end, the merges, start, end
_WORD_END = "</w>"
_START, _END = "<|startoftext|>", "<|endoftext|>"
# Contractions, runs of letters, single digits, runs of anything else but space.
_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


class Tokenizer:
    """Text to CLIP token ids.

    >>> Tokenizer()("a photo with a car").shape
    torch.Size([1, 77])

    Raises:
        ImportError: open_clip_torch is not installed.
    """

    def __init__(self) -> None:
        self._byte_symbols = _byte_symbols()
        self._ids, self._ranks = _vocabulary()
        self._cache: dict[str, list[int]] = {}

    def __call__(self, texts: str | list[str], context_length: int = 77) -> torch.Tensor:
        """Token ids between a start and an end mark, padded with zeros.

        Args:
            texts: one or several strings.
            context_length: columns; a longer text is cut and ends with the end mark.

        Returns:
            (number of texts, context_length) int64.
        """
        texts = [texts] if isinstance(texts, str) else texts
        rows = torch.zeros(len(texts), context_length, dtype=torch.int64)
        start, end = self._ids[_START], self._ids[_END]
        for row, text in zip(rows, texts):
            ids = [start, *self.encode(text), end]
            if len(ids) > context_length:
                ids = [*ids[: context_length - 1], end]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def encode(self, text: str) -> list[int]:
        """The ids of a text's pieces, without start and end mark."""
        clean = html.unescape(html.unescape(ftfy.fix_text(text)))
        words = _WORDS.findall(" ".join(clean.split()).lower())
        return [i for word in words for i in self._word(word)]

    def _word(self, word: str) -> list[int]:
        if word in (_START, _END):
            return [self._ids[word]]
        if word not in self._cache:
            symbols = [self._byte_symbols[b] for b in word.encode("utf-8")]
            symbols[-1] += _WORD_END
            self._cache[word] = [self._ids[piece] for piece in self._merge(symbols)]
        return self._cache[word]

    def _merge(self, pieces: list[str]) -> list[str]:
        """Join the neighbours that the vocabulary ranks first, everywhere, until none is left to join."""
        while len(pieces) > 1:
            pairs = pairwise(pieces)
            best = min(pairs, key=lambda pair: self._ranks.get(pair, _SIZE))
            if best not in self._ranks:
                break
            joined, i = [], 0
            while i < len(pieces):
                whole = tuple(pieces[i : i + 2]) == best
                joined.append("".join(best) if whole else pieces[i])
                i += 2 if whole else 1
            pieces = joined
        return pieces


def _byte_symbols() -> dict[int, str]:
    """A printable character for each byte, in the order in which the vocabulary numbers them."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [b for b in range(256) if b not in printable]
    symbols = {b: chr(b) for b in printable}
    symbols.update({b: chr(256 + i) for i, b in enumerate(others)})
    return symbols


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Piece -> id, and pair of pieces -> rank of its merge."""
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "the tokenizer's vocabulary comes with open_clip_torch: pip install open_clip_torch"
        )
    path = Path(spec.submodule_search_locations[0]) / _VOCABULARY
    symbols = list(_byte_symbols().values())
    count = _SIZE - 2 * len(symbols) - 2
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : 1 + count]  # the first line is a comment
    merges = [tuple(line.split()) for line in lines]
    pieces = [*symbols, *(s + _WORD_END for s in symbols), *("".join(m) for m in merges), _START, _END]
    return {p: i for i, p in enumerate(pieces)}, {m: i for i, m in enumerate(merges)}
