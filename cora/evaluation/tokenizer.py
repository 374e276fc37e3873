"""The Penn Treebank tokeniser of the caption metrics, driven so that no caption can shift another.

Published BLEU, ROUGE-L and CIDEr numbers rest on this tokeniser (Stanford CoreNLP 3.4.1, in lower case, punctuation
removed); the jar and the list of removed tokens come with pycocoevalcap. `tokenize_by_regex` is for machines without
Java: alike on plain English, other numbers where texts are not plain, and so never taken unless it is asked for.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from cora.errors import BackendUnavailable
from cora.evaluation.java import QUICK, JavaFailure, JavaRuntime

__all__ = ["PTB_NAME", "REGEX_NAME", "jar_digest", "one_line", "scorer_folder", "tokenize", "tokenize_by_regex"]

PTB_NAME = "ptb (stanford-corenlp-3.4.1, lower case, punctuation removed)"
REGEX_NAME = "regex (of CORA, alike on plain English; not comparable with published scores)"
# Of the texts that one run is given; a text counts as this many more than it has.
_CHARACTERS, _SHORTEST = 2**25, 64
_CLASS = "edu.stanford.nlp.process.PTBTokenizer"


def tokenize(captions: Iterable[str], java: JavaRuntime, *, timeout_seconds: float | None = None) -> Iterator[str]:
    """Yield each caption as its tokens, separated by single spaces.

    Args:
        captions: Any text; line breaks of every kind count as spaces. An empty caption has no tokens.
        java: What runs the tokeniser, once for every `_CHARACTERS` characters.
        timeout_seconds: Time limit of a run; by default two minutes and 20 ms per caption.

    Raises:
        JavaFailure: The tokeniser crashed, ran out of time, or answered with another number of lines.
    """
    for block in _blocks(map(one_line, captions)):
        # Short answers and the questions of a layout repeat; equal ones have equal tokens.
        lines = list(dict.fromkeys(block))
        tokens = dict(zip(lines, _tokenize_lines(lines, java, timeout_seconds), strict=True))
        for caption in block:
            yield tokens[caption]


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in order, in lists that are in memory several times without much harm."""
    block, size = [], 0
    for text in texts:
        block.append(text)
        size += len(text) + _SHORTEST
        if size >= _CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _tokenize_lines(lines: Sequence[str], java: JavaRuntime, timeout_seconds: float | None) -> Iterator[str]:
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS  # type: ignore[import-untyped]  # has no types

    if not any(lines):
        return iter(lines)
    limit = 120 + 0.02 * len(lines) if timeout_seconds is None else timeout_seconds
    with tempfile.TemporaryDirectory(prefix="cora-ptb-") as name:
        folder = Path(name)
        # A lone surrogate, which JSON can smuggle in, has no UTF-8.
        (folder / "captions").write_bytes("".join(line + "\n" for line in lines).encode("utf-8", "replace"))
        output = java.run(
            [*QUICK, "-cp", str(_jar()), _CLASS, "-preserveLines", "-lowerCase", "captions"],
            folder=folder,
            timeout_seconds=limit,
        )
    tokenized = output.decode("utf-8").split("\n")
    if tokenized and not tokenized[-1]:
        tokenized.pop()
    if len(tokenized) != len(lines):
        raise JavaFailure(f"the tokeniser answered {len(lines)} captions with {len(tokenized)} lines")
    removed = frozenset(PUNCTUATIONS)
    return (" ".join(token for token in line.split() if token not in removed) for line in tokenized)


def jar_digest() -> str:
    """Return the SHA-256 of the tokeniser's jar."""
    return hashlib.sha256(_jar().read_bytes()).hexdigest()


def tokenize_by_regex(captions: Iterable[str]) -> Iterator[str]:
    """Yield each caption as its tokens, separated by single spaces, without Java; see `REGEX_NAME`."""
    return (" ".join(_TOKEN.findall(_plain(caption))) for caption in captions)


def one_line(caption: str) -> str:
    """Return a text on one line, with single spaces."""
    # str.split knows every Unicode line break, the file and record separators and NEL; it does not know NUL.
    return " ".join(caption.replace("\0", " ").split())


def scorer_folder() -> Path:
    """Return the folder of pycocoevalcap, whose jars are run here.

    Raises:
        BackendUnavailable: It is not installed.
    """
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise BackendUnavailable("pycocoevalcap is not installed: pip install pycocoevalcap")
    return Path(spec.submodule_search_locations[0])


def _jar() -> Path:
    return scorer_folder() / "tokenizer" / "stanford-corenlp-3.4.1.jar"


# Numbers with their points, commas and fractions, words with their hyphens, clitics, and the signs that PTB keeps.
_TOKEN = re.compile(
    r"n't\b|'(?:s|re|ve|ll|d|m)\b|\d+(?:[.,/]\d+)*|[^\W_]+(?:-[^\W_]+)*?(?=n't\b)|[^\W_]+(?:-[^\W_]+)*|[$%&#*/°]"
)
_CANNOT = re.compile(r"\bcannot\b")


def _plain(caption: str) -> str:
    text = one_line(caption).lower().replace("\u2019", "'")
    return _CANNOT.sub("can not", text)
