"""METEOR's table of paraphrases as a tree of words, and which of its phrases some captions contain.

A phrase is a node: the number of the phrase without its last word, and that word. So a caption is looked up from each
of its words on, one word further at a time, for all captions at once.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.int64]

__all__ = ["PhraseTable"]

# Bytes of the table, phrases and captions that are in memory as such at a time.
_BLOCK = 2**24
_PHRASES = 2**17
_CAPTIONS = 2**16
_PLAIN = re.compile(rb"[a-z0-9]+")
_WORD = re.compile(r"[a-z0-9]+")
_DOT_INSIDE = re.compile(r"(?<=[a-z0-9])\.(?=[a-z0-9])")


@dataclass(frozen=True, slots=True)
class PhraseTable:
    """The table of paraphrases. Nodes count from 1, words shorter by one before longer; 0 is no word at all.

    Attributes:
        words: The words, one a line, uint8[B].
        keys: Node -> its parent times the number of words, plus its last word, int64[K]; rising in each length.
        levels: Where in `keys` the phrases of each length start, int64[L + 1].
        phrases: The phrases in the table's order, int32[E].
        paraphrases: Their paraphrases, int32[E].
        odd: Phrases that have more than letters from a to z and digits, int32[O].
    """

    words: npt.NDArray[np.uint8]
    keys: Numbers
    levels: Numbers
    phrases: npt.NDArray[np.int32]
    paraphrases: npt.NDArray[np.int32]
    odd: npt.NDArray[np.int32]

    @classmethod
    def read(cls, table: Path) -> PhraseTable:
        """Return the table of a compressed file: of each paraphrase its probability, the phrase, and the other one."""
        numbers: dict[bytes, int] = {}
        sides: tuple[list[Numbers], list[Numbers]] = [], []
        for lines in _blocks(table):
            for side, texts in zip(sides, (lines[1::3], lines[2::3]), strict=True):
                found = (numbers.setdefault(text, len(numbers)) for text in texts)
                side.append(np.fromiter(found, np.int64, count=len(texts)))
        words: dict[bytes, int] = {}
        flat, lengths = _split(numbers, words)
        keys, levels, nodes = _tree(flat, lengths, len(words))
        is_odd = np.asarray([_PLAIN.fullmatch(word) is None for word in words], dtype=bool)
        odd = np.maximum.reduceat(is_odd[flat], np.cumsum(lengths) - lengths)
        phrases, paraphrases = (nodes[np.concatenate(side)].astype(np.int32) for side in sides)
        text = np.frombuffer(b"\n".join(words), dtype=np.uint8)
        return cls(text, keys, levels, phrases, paraphrases, nodes[odd].astype(np.int32))

    @classmethod
    def load(cls, path: Path) -> PhraseTable:
        """Return the table that was saved in a file; OSError or ValueError where it is none."""
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return cls(*(arrays[each.name] for each in fields(cls)))

    def save(self, stream: BinaryIO) -> None:
        """Write the table to a file."""
        np.savez(stream, **{each.name: getattr(self, each.name) for each in fields(self)})

    def write_possible(self, captions: Iterable[str], target: Path) -> int:
        """Write, in the table's format and order, the paraphrases that two of the captions can have in common.

        Returns:
            How many there are.
        """
        possible = self.possible(captions)
        kept = np.flatnonzero(possible[self.phrases] & possible[self.paraphrases])
        phrases, paraphrases = self.phrases[kept], self.paraphrases[kept]
        texts = self._texts(np.union1d(phrases, paraphrases))
        with gzip.open(target, "wb", compresslevel=0) as stream:
            # The program reads a probability and does not use it.
            pairs = zip(phrases.tolist(), paraphrases.tolist(), strict=True)
            lines = (b"1\n%s\n%s\n" % (texts[phrase], texts[paraphrase]) for phrase, paraphrase in pairs)
            while part := b"".join(islice(lines, _PHRASES)):
                stream.write(part)
        return len(kept)

    def possible(self, captions: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Return of each node whether METEOR can see it in some caption; maybe of some more that it cannot."""
        found = np.zeros(len(self.keys) + 1, dtype=bool)
        found[self.odd] = True
        numbers = {word: number for number, word in enumerate(self._words())}
        runs = _runs(captions)
        while part := list(islice(runs, _CAPTIONS)):
            # What no phrase has ends them all, as the end of a run does.
            flat = [numbers.get(word.encode(), -1) for run in part for word in (*run, "")]
            self._look_up(np.asarray(flat, dtype=np.int64), found)
        return found

    def _look_up(self, words: Numbers, found: npt.NDArray[np.bool_]) -> None:
        """Mark the nodes of all phrases in a sequence of words; -1 is in no phrase and comes last."""
        base = len(self._words())
        starts, nodes = np.arange(len(words)), np.zeros(len(words), dtype=np.int64)
        for length, (begin, end) in enumerate(zip(self.levels[:-1], self.levels[1:], strict=True)):
            following = words[starts + length]
            keys = nodes * base + following
            places = np.searchsorted(self.keys[begin:end], keys)
            is_found = np.append(self.keys[begin:end], -1)[places] == keys
            is_found &= following >= 0
            starts, nodes = starts[is_found], begin + places[is_found] + 1
            found[nodes] = True

    def _texts(self, nodes: npt.NDArray[np.int32]) -> dict[int, bytes]:
        """Return the words of some phrases."""
        words = self._words()
        texts: dict[int, bytes] = {0: b""}
        steps = []
        level = nodes[nodes > 0].astype(np.int64)
        while len(level):
            parents, last = np.divmod(self.keys[level - 1], len(words))
            steps.append((level, parents, last))
            level = np.unique(parents[parents > 0])
        for each in reversed(steps):
            for node, parent, word in zip(*(part.tolist() for part in each), strict=True):
                texts[node] = texts[parent] + b" " + words[word] if parent else words[word]
        return texts

    def _words(self) -> list[bytes]:
        return self.words.tobytes().split(b"\n")


def _runs(captions: Iterable[str]) -> Iterator[list[str]]:
    """Yield the words of captions as METEOR sees them: runs of letters from a to z and digits.

    Everything else it puts between words or takes for a word; but a dot within a word may join its parts. The captions
    are in lower case by all of Unicode first: there are other capitals of i and k.
    """
    for caption in captions:
        text = caption.lower()
        yield _WORD.findall(text)
        if "." in text:
            yield _WORD.findall(_DOT_INSIDE.sub("", text))


def _blocks(table: Path) -> Iterator[list[bytes]]:
    """Yield the lines of parts of the table; each part has whole entries."""
    rest = b""
    with gzip.open(table) as stream:
        while block := stream.read(_BLOCK):
            lines = (rest + block).split(b"\n")
            end = (len(lines) - 1) // 3 * 3
            yield lines[:end]
            rest = b"\n".join(lines[end:])


def _split(phrases: Iterable[bytes], words: dict[bytes, int]) -> tuple[Numbers, Numbers]:
    """Return the words of phrases, one phrase after the other, and how many each has; new words are added."""
    flat, lengths = [], []
    left = iter(phrases)
    while part := list(islice(left, _PHRASES)):
        # No list for each phrase: the garbage collector would go over all of them again and again.
        found = b"\n".join(part).split()
        flat.append(np.fromiter((words.setdefault(word, len(words)) for word in found), np.int64, count=len(found)))
        lengths.append(np.asarray([phrase.count(b" ") + 1 for phrase in part], dtype=np.int64))
        if lengths[-1].sum() != len(found):
            raise ValueError("a phrase has no words, or other spaces than single ones between them")
    return np.concatenate(flat), np.concatenate(lengths)


def _tree(words: Numbers, lengths: Numbers, base: int) -> tuple[Numbers, Numbers, Numbers]:
    """Return `keys` and `levels` of the tree of phrases, and the node of each phrase."""
    starts = np.cumsum(lengths) - lengths
    nodes = np.zeros(len(lengths), dtype=np.int64)
    keys: list[Numbers] = []
    levels: Sequence[int] = [0]
    for length in range(1, int(lengths.max()) + 1):
        longer = np.flatnonzero(lengths >= length)
        level, places = np.unique(nodes[longer] * base + words[starts[longer] + length - 1], return_inverse=True)
        nodes[longer] = levels[-1] + places + 1
        keys.append(level)
        levels = [*levels, levels[-1] + len(level)]
    return np.concatenate(keys), np.asarray(levels, dtype=np.int64), nodes
