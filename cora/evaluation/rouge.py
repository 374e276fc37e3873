"""ROUGE-L, from the longest common subsequence of words; equal to pycocoevalcap's, which a test compares.

A row of the table of subsequences is the bits of one integer, so that a word costs one addition and not one step for
every word of the other caption.

Reference: Lin, "ROUGE", 2004; Hyyrö, "Bit-parallel LCS-length computation revisited", 2004.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["common_length", "rouge_l"]

_BETA = 1.2
# A caption without words counts as one empty word, as it does there.
_NO_WORDS = (-1,)


def rouge_l(answer: Sequence[int], references: Sequence[Sequence[int]]) -> float:
    """Return ROUGE-L of the words of a caption; precision and recall are each those of the most favourable reference.

    Args:
        answer: Its words, as numbers.
        references: Those of one or more references.
    """
    words = answer or _NO_WORDS
    others = [reference or _NO_WORDS for reference in references]
    lengths = [common_length(words, other) for other in others]
    precision = max(lengths) / len(words)
    recall = max(length / len(other) for length, other in zip(lengths, others, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def common_length(words: Sequence[int], others: Sequence[int]) -> int:
    """Return the length of the longest common subsequence."""
    places: dict[int, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(words)) - 1
    # A zero bit is a word at which the subsequence grows.
    row = full
    for word in others:
        hits = row & places.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(words) - row.bit_count()
