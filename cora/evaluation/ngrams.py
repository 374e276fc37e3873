"""BLEU and CIDEr-D from n-grams that are counted for all captions at once.

The values are those of pycocoevalcap, which counts one caption after the other and takes three to ten times as long; a
test holds the two equal.

Reference: Papineni et al., "BLEU", 2002; Vedantam et al., "CIDEr", 2015.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Counts = npt.NDArray[np.int64]
    Scores = npt.NDArray[np.float64]

__all__ = ["NGrams"]

LONGEST = 4
# Of the penalty for another length than the reference's.
_SIGMA = 6.0


class NGrams:
    """The n-grams, from 1 to 4, of answers and references.

    Args:
        hypotheses: One tokenised caption per sample.
        references: One or more tokenised captions per sample.
    """

    def __init__(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        import numpy as np

        self._count = len(hypotheses)
        captions = [caption.split() for caption in (*hypotheses, *(text for texts in references for text in texts))]
        self._lengths = np.asarray([len(words) for words in captions], dtype=np.int64)
        # Captions are the answers in order, then the references in order.
        self._references = np.asarray([len(texts) for texts in references], dtype=np.int64)
        samples = np.arange(self._count)
        self._sample_of = np.concatenate([samples, np.repeat(samples, self._references)])
        numbers: dict[str, int] = {}
        self._words = np.asarray(
            [numbers.setdefault(word, len(numbers)) for words in captions for word in words], dtype=np.int64
        )

    def bleu_sums(self) -> Scores:
        """Return what BLEU is computed from, float[N, 10] by sample; see `cora.evaluation.metrics.bleu_from_sums`."""
        import numpy as np

        sums = np.zeros((self._count, 2 * LONGEST + 2))
        lengths = self._lengths[: self._count]
        for n, (captions, grams, counts) in enumerate(self._counted(), start=1):
            mine, theirs, places = self._shared(captions, grams)
            allowed = np.zeros(len(mine), dtype=np.int64)
            np.maximum.at(allowed, places, counts[theirs])
            correct = np.minimum(allowed, counts[mine])
            sums[:, n - 1] = np.bincount(captions[mine], weights=correct, minlength=self._count)
            sums[:, LONGEST + n - 1] = np.maximum(lengths - n + 1, 0)
        sums[:, -2] = lengths
        ends = np.cumsum(self._references) + self._count
        for sample, (length, end, number) in enumerate(zip(lengths, ends, self._references, strict=True)):
            sums[sample, -1] = min((abs(each - length), each) for each in self._lengths[end - number : end])[1]
        return sums

    def cider(self) -> Scores:
        """Return CIDEr-D of each sample, float[N], with the document frequencies of these references."""
        import numpy as np

        owners = self._sample_of[self._count :]
        similarities = np.zeros(len(owners))
        for captions, grams, counts in self._counted():
            is_reference = captions >= self._count
            size = int(grams.max(initial=0)) + 1
            documents = np.unique(self._sample_of[captions[is_reference]] * size + grams[is_reference]) % size
            frequencies = np.bincount(documents, minlength=size)
            weights = counts * (np.log(self._count) - np.log(np.maximum(frequencies, 1)))[grams]
            norms = np.sqrt(np.bincount(captions, weights=weights**2, minlength=len(self._lengths)))
            mine, theirs, places = self._shared(captions, grams)
            # Clipped, so that to repeat a word does not pay.
            products = np.minimum(weights[mine][places], weights[theirs]) * weights[theirs]
            dots = np.bincount(captions[theirs] - self._count, weights=products, minlength=len(owners))
            scales = norms[owners] * norms[self._count :]
            similarities += dots / np.where(scales > 0, scales, 1.0)
        # Lengths are counted in pairs of words.
        pairs = np.maximum(self._lengths - 1, 0)
        penalties = np.exp(-((pairs[owners] - pairs[self._count :]) ** 2) / (2 * _SIGMA**2))
        totals = np.bincount(owners, weights=similarities * penalties, minlength=self._count)
        scores: Scores = 10.0 * totals / LONGEST / self._references
        return scores

    def _counted(self) -> Iterator[tuple[Counts, Counts, Counts]]:
        """Yield for n from 1 to 4 (captions, n-grams, counts), a row for each n-gram of a caption, in their order."""
        import numpy as np

        owners = np.repeat(np.arange(len(self._lengths)), self._lengths)
        left = np.repeat(np.cumsum(self._lengths), self._lengths) - np.arange(len(owners))
        vocabulary = int(self._words.max(initial=0)) + 1
        grams = np.zeros_like(self._words)
        for n in range(1, LONGEST + 1):
            starts = np.flatnonzero(left >= n)
            # The n-gram before, which is shorter by a word, and that word.
            keys = grams[starts] * vocabulary + self._words[starts + n - 1]
            grams[starts] = np.unique(keys, return_inverse=True)[1]
            size = int(grams[starts].max(initial=0)) + 1
            rows, counts = np.unique(owners[starts] * size + grams[starts], return_counts=True)
            yield rows // size, rows % size, counts

    def _shared(self, captions: Counts, grams: Counts) -> tuple[Counts, Counts, Counts]:
        """Return rows of answers, rows of references that their answer shares, and where among the first those are."""
        import numpy as np

        size = int(grams.max(initial=0)) + 1
        keys = self._sample_of[captions] * size + grams
        end = int(np.searchsorted(captions, self._count))
        mine, theirs = np.arange(end), np.arange(end, len(captions))
        places = np.searchsorted(keys[:end], keys[end:])
        is_shared = np.append(keys[:end], -1)[places] == keys[end:]
        return mine, theirs[is_shared], places[is_shared]
