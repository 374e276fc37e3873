"""BLEU and CIDEr-D from n-grams that are counted for many captions at once.

The values are those of pycocoevalcap, which counts one caption after the other and takes three to ten times as long; a
test holds the two equal.

Reference: Papineni et al., "BLEU", 2002; Vedantam et al., "CIDEr", 2015.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cora.evaluation.corpus import Corpus

if TYPE_CHECKING:
    from cora.evaluation.corpus import Counts
    from cora.evaluation.values import Numbers

__all__ = ["bleu_sums", "cider"]

LONGEST = 4
# Of the penalty for another length than the reference's.
_SIGMA = 6.0
# Words whose n-grams are in memory at a time: of samples that do not depend on each other, and of all samples.
_WORDS_OF_SAMPLES, _WORDS = 2**19, 2**20


def bleu_sums(corpus: Corpus) -> Numbers:
    """Return what BLEU is computed from, float[N, 10] by sample; see `cora.evaluation.metrics.bleu_from_sums`."""
    import numpy as np

    return np.concatenate([_bleu_sums(part) for part in corpus.parts(_WORDS_OF_SAMPLES)])


def _bleu_sums(corpus: Corpus) -> Numbers:
    import numpy as np

    count = len(corpus)
    sums = np.zeros((count, 2 * LONGEST + 2))
    lengths = corpus.lengths[:count]
    samples = corpus.samples
    for n, (captions, grams, counts) in enumerate(_counted(corpus), start=1):
        end = int(np.searchsorted(captions, count))
        theirs, places = _shared(samples[captions], grams, num_answers=end)
        allowed = np.zeros(end, dtype=np.int64)
        np.maximum.at(allowed, places, counts[theirs])
        correct = np.minimum(allowed, counts[:end])
        sums[:, n - 1] = np.bincount(captions[:end], weights=correct, minlength=count)
        sums[:, LONGEST + n - 1] = np.maximum(lengths - n + 1, 0)
    sums[:, -2] = lengths
    # Of the references that are closest in length the shortest: the least of (distance, length) as one number.
    others = corpus.lengths[count:]
    longest = int(others.max(initial=0)) + 1
    keys = np.abs(others - lengths[samples[count:]]) * longest + others
    sums[:, -1] = np.minimum.reduceat(keys, np.cumsum(corpus.num_references) - corpus.num_references) % longest
    return sums


def cider(corpus: Corpus) -> Numbers:
    """Return CIDEr-D of each sample, float[N], with the document frequencies of these references."""
    import numpy as np

    count, num_captions = len(corpus), len(corpus.lengths)
    samples = corpus.samples
    owners = samples[count:]
    # Sums over n-grams, which may be added up a part of all n-grams at a time.
    squares = np.zeros((LONGEST, num_captions))
    dots = np.zeros((LONGEST, len(owners)))
    num_parts = 1 + len(corpus.words) // _WORDS
    for part in range(num_parts):
        for n, (captions, grams, counts) in enumerate(_counted(corpus, part, num_parts)):
            size = int(grams.max(initial=0)) + 1
            end = int(np.searchsorted(captions, count))
            documents = np.unique(samples[captions[end:]] * size + grams[end:]) % size
            frequencies = np.bincount(documents, minlength=size)
            weights = counts * (np.log(count) - np.log(np.maximum(frequencies, 1)))[grams]
            squares[n] += np.bincount(captions, weights=weights**2, minlength=num_captions)
            theirs, places = _shared(samples[captions], grams, num_answers=end)
            # Clipped, so that to repeat a word does not pay.
            products = np.minimum(weights[places], weights[theirs]) * weights[theirs]
            dots[n] += np.bincount(captions[theirs] - count, weights=products, minlength=len(owners))
    similarities = np.zeros(len(owners))
    for n in range(LONGEST):
        norms = np.sqrt(squares[n])
        scales = norms[owners] * norms[count:]
        similarities += dots[n] / np.where(scales > 0, scales, 1.0)
    # Lengths are counted in pairs of words.
    pairs = np.maximum(corpus.lengths - 1, 0)
    penalties = np.exp(-((pairs[owners] - pairs[count:]) ** 2) / (2 * _SIGMA**2))
    totals = np.bincount(owners, weights=similarities * penalties, minlength=count)
    scores: Numbers = 10.0 * totals / LONGEST / corpus.num_references
    return scores


def _counted(corpus: Corpus, part: int = 0, num_parts: int = 1) -> Iterator[tuple[Counts, Counts, Counts]]:
    """Yield for n from 1 to 4 (captions, n-grams, counts), a row for each n-gram of a caption, in their order.

    Words are numbered by first appearance, so that frequent ones, which come early, are in different parts.

    Args:
        corpus: The captions.
        part: Of the n-grams, those whose first word's number is this, modulo `num_parts`.
        num_parts: Number of parts.
    """
    import numpy as np

    vocabulary = len(corpus.vocabulary)
    starts = np.flatnonzero(corpus.words % num_parts == part)
    captions = np.searchsorted(corpus.ends, starts, side="right")
    grams = corpus.words[starts].astype(np.int64)
    for n in range(1, LONGEST + 1):
        if n > 1:
            fits = starts + n <= corpus.ends[captions]
            starts, captions = starts[fits], captions[fits]
            # The n-gram before, which is shorter by a word, and that word.
            grams = np.unique(grams[fits] * vocabulary + corpus.words[starts + n - 1], return_inverse=True)[1]
        size = int(grams.max(initial=0)) + 1
        rows, counts = np.unique(captions * size + grams, return_counts=True)
        yield *np.divmod(rows, size), counts


def _shared(samples: Counts, grams: Counts, *, num_answers: int) -> tuple[Counts, Counts]:
    """Return the rows of references whose n-gram their answer has too, and the rows in which the answer has it.

    Args:
        samples: The sample of each row.
        grams: The n-gram of each row.
        num_answers: How many rows are of answers, which come first.
    """
    import numpy as np

    size = int(grams.max(initial=0)) + 1
    keys = samples * size + grams
    places = np.searchsorted(keys[:num_answers], keys[num_answers:])
    is_shared = np.append(keys[:num_answers], -1)[places] == keys[num_answers:]
    return num_answers + np.flatnonzero(is_shared), places[is_shared]
