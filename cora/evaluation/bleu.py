"""BLEU from counts: what each sample adds to the corpus, so that any selection of samples can be scored by adding up.

The n-grams are counted by pycocoevalcap, and the constants are its own, so that the numbers are those it gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_ORDER", "bleu", "bleu_counts"]

MAX_ORDER = 4
_TINY, _SMALL = 1e-15, 1e-9


def bleu_counts(gold: Mapping[int, Sequence[str]], hypotheses: Mapping[int, Sequence[str]]) -> npt.NDArray[np.int64]:
    """Return int64[N, 10], one line per sample in order of `gold`.

    A line is the length of the answer and of the reference nearest in length, the answer's n-grams for n = 1 .. 4, and
    those of them that a reference has.

    Args:
        gold: Sample -> its tokenised references.
        hypotheses: Sample -> its tokenised answer, alone in a list.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer  # type: ignore[import-untyped]  # has no types

    scorer = BleuScorer(n=MAX_ORDER)
    for sample, references in gold.items():
        scorer += (hypotheses[sample][0], list(references))
    lines = []
    for counts in scorer.ctest:
        length = counts["testlen"]
        nearest = min(counts["reflen"], key=lambda reference: (abs(reference - length), reference))
        lines.append([length, nearest, *counts["guess"], *counts["correct"]])
    return np.array(lines, dtype=np.int64).reshape(-1, 2 + 2 * MAX_ORDER)


def bleu(counts: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return BLEU-1 .. BLEU-4, float64[..., 4], of counts [..., 10]: of samples, or of a corpus where summed."""
    numbers = counts.astype(np.float64)
    length, nearest = numbers[..., :1], numbers[..., 1:2]
    guessed, right = numbers[..., 2 : 2 + MAX_ORDER], numbers[..., 2 + MAX_ORDER :]
    precision = np.cumprod((right + _TINY) / (guessed + _SMALL), axis=-1) ** (1 / np.arange(1, MAX_ORDER + 1))
    ratio = (length + _TINY) / (nearest + _SMALL)
    return np.asarray(precision * np.exp(np.minimum(0.0, 1 - 1 / ratio)))
