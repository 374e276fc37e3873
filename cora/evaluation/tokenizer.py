"""The Penn Treebank tokeniser of the caption metrics, driven so that no caption can shift another.

Published BLEU, ROUGE-L and CIDEr numbers rest on this tokeniser (Stanford CoreNLP 3.4.1, in lower case, punctuation
removed); the jar and the list of removed tokens come with pycocoevalcap. `tokenize_by_regex` is for machines without
Java: alike on plain English, other numbers where texts are not plain, and so never taken unless it is asked for.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from cora.errors import BackendUnavailable
from cora.evaluation.java import QUICK, JavaFailure, JavaRuntime

__all__ = ["PTB_NAME", "REGEX_NAME", "jar_digest", "one_line", "scorer_folder", "tokenize", "tokenize_by_regex"]

PTB_NAME = "ptb (stanford-corenlp-3.4.1, lower case, punctuation removed)"
REGEX_NAME = "regex (of CORA, alike on plain English; not comparable with published scores)"
# It has one caption in memory; without a bound it would take what the machine has before it clears up.
_HEAP = "-Xmx512M"
_CLASS = "edu.stanford.nlp.process.PTBTokenizer"


def tokenize(captions: Iterable[str], java: JavaRuntime, *, timeout_seconds: float | None = None) -> Iterator[str]:
    """Yield each caption as its tokens, separated by single spaces.

    All captions go to one run of the tokeniser, repeated ones too: how it takes a point at the end of a caption depends
    on how the next one starts.

    Args:
        captions: Any text; line breaks of every kind count as spaces. An empty caption has no tokens.
        java: What runs the tokeniser.
        timeout_seconds: Time limit; by default two minutes and 20 ms per caption.

    Raises:
        JavaFailure: The tokeniser crashed, ran out of time, or answered with another number of lines.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS  # type: ignore[import-untyped]  # has no types

    removed = frozenset(PUNCTUATIONS)
    with tempfile.TemporaryDirectory(prefix="cora-ptb-") as name:
        path = Path(name) / "captions"
        num_lines = 0
        with path.open("wb") as stream:
            for caption in map(one_line, captions):
                num_lines += 1
                # A lone surrogate, which JSON can smuggle in, has no UTF-8.
                stream.write(f"{caption}\n".encode("utf-8", "replace"))
        if path.stat().st_size == num_lines:
            yield from ("" for _ in range(num_lines))
            return
        output = java.run(
            [*QUICK, _HEAP, "-cp", str(_jar()), _CLASS, "-preserveLines", "-lowerCase", path.name],
            folder=path.parent,
            timeout_seconds=120 + 0.02 * num_lines if timeout_seconds is None else timeout_seconds,
        )
        with output.open(encoding="utf-8", newline="\n") as lines:
            if (num_found := sum(1 for _ in lines)) != num_lines:
                raise JavaFailure(f"the tokeniser answered {num_lines} captions with {num_found} lines")
            lines.seek(0)
            for line in lines:
                yield " ".join([token for token in line.split() if token not in removed])


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
