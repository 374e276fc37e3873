"""Those of METEOR's five million paraphrases that its captions can have in common.

The program loads its table before it starts, and for a few thousand captions most of its time goes there. Without the
phrases that are in no caption it counts the same.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from cora.evaluation.tokenizer import scorer_folder

__all__ = ["LONGEST", "MOST_PHRASES", "paraphrase_file", "write_possible"]

# Words of the table's longest phrase.
LONGEST = 7
# Of more captions than have so many, 300 MB, the program takes longer than to load its table.
MOST_PHRASES = 2_000_000
_BLOCK = 2**22
_WORD = re.compile(r"[a-z0-9]+")
_DOT_INSIDE = re.compile(r"(?<=[a-z0-9])\.(?=[a-z0-9])")
# Those after the digits are in probabilities, such as 9.5E-4, and in no phrase of the table.
_PLAIN = b"abcdefghijklmnopqrstuvwxyz 0123456789.E-\n"
_MARK = b"!"
_MARKS = bytes(byte if byte in _PLAIN else ord(_MARK) for byte in range(256))


def write_possible(captions: Iterable[str], target: Path) -> bool:
    """Write the paraphrases that two of the captions can have in common, as the table has them and in its order.

    Returns:
        Whether they were written; captions with more than `MOST_PHRASES` take the whole table.
    """
    possible = _phrases(captions)
    if possible is None:
        return False
    with gzip.open(paraphrase_file()) as source, gzip.open(target, "wb", compresslevel=0) as kept:
        rest = b""
        while block := source.read(_BLOCK):
            block = rest + block
            lines = block.split(b"\n")
            end = (len(lines) - 1) // 3 * 3
            # What METEOR makes of other signs than letters and digits is its own affair: those phrases stay.
            possible.update(_odd_lines(block))
            entries = zip(lines[:end:3], lines[1:end:3], lines[2:end:3], strict=True)
            found = [b"%s\n%s\n%s\n" % each for each in entries if each[1] in possible and each[2] in possible]
            kept.write(b"".join(found))
            rest = b"\n".join(lines[end:])
    return True


def paraphrase_file() -> Path:
    """Return METEOR's table, compressed, which comes with pycocoevalcap: probability, phrase and paraphrase in turn."""
    return scorer_folder() / "meteor" / "data" / "paraphrase-en.gz"


def _phrases(captions: Iterable[str]) -> set[bytes] | None:
    """Return all runs of words that METEOR can see in captions and maybe some more, or None where they are too many."""
    found: set[bytes] = set()
    for run in chain.from_iterable(map(_runs, captions)):
        for start in range(len(run)):
            phrase = run[start]
            found.add(phrase)
            for word in run[start + 1 : start + LONGEST]:
                phrase += b" " + word
                found.add(phrase)
        if len(found) > MOST_PHRASES:
            return None
    return found


def _runs(caption: str) -> Iterator[list[bytes]]:
    """Yield the words of a caption as METEOR sees them: runs of letters from a to z and digits.

    Everything else it puts between words or takes for a word; but a dot within a word may join its parts. The caption
    is in lower case by all of Unicode first: there are other capitals of i and k.
    """
    text = caption.lower()
    yield [word.encode() for word in _WORD.findall(text)]
    if "." in text:
        yield [word.encode() for word in _WORD.findall(_DOT_INSIDE.sub("", text))]


def _odd_lines(block: bytes) -> Iterator[bytes]:
    """Yield the lines that have other signs than plain ones."""
    marks = block.translate(_MARKS)
    end = 0
    while (place := marks.find(_MARK, end)) >= 0:
        end = block.find(b"\n", place)
        end = len(block) if end < 0 else end
        yield block[block.rfind(b"\n", 0, place) + 1 : end]
