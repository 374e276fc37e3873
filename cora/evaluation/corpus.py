"""Tokenised captions as the numbers of their words: four bytes a word, where Python's texts take fifty and more.

A sample is a position, never an image, which has many questions.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Words = npt.NDArray[np.int32]
    Counts = npt.NDArray[np.int64]

__all__ = ["Corpus"]


class Corpus:
    """The answers and references of N samples, C captions of T words: the answers in order, then the references.

    Args:
        words: int32[T], the place in `vocabulary` of every word, one caption after the other.
        lengths: int[C], the number of words of each caption.
        num_references: int[N], of each sample; at least one.
        vocabulary: All words.
    """

    def __init__(self, words: Words, lengths: Counts, num_references: Counts, vocabulary: Sequence[str]) -> None:
        import numpy as np

        self.words = words
        self.lengths = lengths
        self.num_references = num_references
        self.vocabulary = vocabulary
        # Where each caption starts among the words, and each sample's references among the captions; then the end.
        self._starts = np.append(0, np.cumsum(lengths, dtype=np.int64))
        self._references = len(num_references) + np.append(0, np.cumsum(num_references, dtype=np.int64))

    @classmethod
    def of(cls, captions: Iterable[str], num_references: Sequence[int]) -> Corpus:
        """Return the corpus of captions in order, whose words are separated by spaces."""
        import numpy as np

        # A word that is not known yet gets the next number.
        numbers: defaultdict[str, int] = defaultdict()
        numbers.default_factory = numbers.__len__
        words, lengths = array("i"), array("i")
        for caption in captions:
            tokens = caption.split()
            words.extend(map(numbers.__getitem__, tokens))
            lengths.append(len(tokens))
        return cls(
            np.asarray(words, dtype=np.int32),
            np.asarray(lengths, dtype=np.int64),
            np.asarray(num_references, dtype=np.int64),
            list(numbers),
        )

    def __len__(self) -> int:
        return len(self.num_references)

    @property
    def samples(self) -> Counts:
        """The sample of each caption, int64[C]."""
        import numpy as np

        samples = np.arange(len(self))
        return np.concatenate([samples, np.repeat(samples, self.num_references)])

    @property
    def ends(self) -> Counts:
        """The place after the last word of each caption, int64[C]."""
        return self._starts[1:]

    def parts(self, num_words: int) -> Iterator[Corpus]:
        """Yield the samples in order, so many of them at a time that they have `num_words` words on average."""
        import numpy as np

        # A caption without words is something too.
        size = 1 + num_words * len(self) // (len(self.words) + len(self.lengths))
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            captions = slice(start, stop), slice(self._references[start], self._references[stop])
            words = [self.words[self._starts[each.start] : self._starts[each.stop]] for each in captions]
            lengths = [self.lengths[each] for each in captions]
            counts = self.num_references[start:stop]
            yield Corpus(np.concatenate(words), np.concatenate(lengths), counts, self.vocabulary)

    def __iter__(self) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Yield the words of each sample's answer and of its references."""
        words, starts, firsts = self.words.tolist(), self._starts.tolist(), self._references.tolist()
        captions = [words[start:end] for start, end in pairwise(starts)]
        for answer, (start, end) in zip(captions, pairwise(firsts), strict=False):
            yield answer, captions[start:end]

    def texts(self) -> Iterator[tuple[str, ...]]:
        """Yield the answer of each sample and its references as texts again, with single spaces between words."""
        for answer, references in self:
            yield tuple([" ".join([self.vocabulary[word] for word in words]) for words in (answer, *references)])
