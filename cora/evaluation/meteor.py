"""METEOR 1.5 by its own program, on files: no pipe that fills, no protocol that a caption can put out of step.

The jar and its table of paraphrases come with pycocoevalcap. To load the whole table takes the program some five
seconds and 600 MB, whatever the number of captions, so it is given the part of it that matters to them. The program
counts matches; the formula stands here, so that scores of single samples, of corpora and of draws of a bootstrap come
from the same counts.

Reference: Denkowski and Lavie, "Meteor Universal", 2014.
"""

from __future__ import annotations

import tempfile
from array import array
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.evaluation.corpus import Corpus
from cora.evaluation.java import QUICK, JavaFailure, JavaRuntime
from cora.evaluation.paraphrases import write_possible
from cora.evaluation.tokenizer import one_line, scorer_folder

if TYPE_CHECKING:
    from cora.evaluation.values import Numbers

__all__ = ["METEOR_SUMS", "meteor_from_sums", "meteor_sums", "score_meteor"]

# Per sample: weighted matches and weighted words of the answer, the same of the reference, runs of matched words in
# equal order, matched words.
METEOR_SUMS = 6

# The English parameters of version 1.5, and its weights of exact, stem, synonym and paraphrase matches.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = (1.0, 0.6, 0.8, 0.6)
_NUM_COUNTS = 23
# That one run of the program is given, and that are texts here, at a time.
_WORDS, _WORDS_WRITTEN = 2**23, 2**19
# More have more phrases than it pays to look for.
_FEW_WORDS = 2**20


def meteor_sums(corpus: Corpus, java: JavaRuntime, *, timeout_seconds: float | None = None) -> Numbers:
    """Return what METEOR is computed from, float[N, 6] by sample; see `meteor_from_sums`.

    Args:
        corpus: The captions; of several references the most favourable counts.
        java: What runs the program, once for every `_WORDS` words.
        timeout_seconds: Time limit of a run; by default two minutes and 20 ms per caption.

    Raises:
        JavaFailure: The program crashed, ran out of time, or answered with another number of lines.
        BackendUnavailable: pycocoevalcap is not installed.
    """
    import numpy as np

    return np.concatenate([_count(part, java, timeout_seconds) for part in corpus.parts(_WORDS)])


def _count(corpus: Corpus, java: JavaRuntime, timeout_seconds: float | None) -> Numbers:
    """Return the statistics of each sample, from one run of the program."""
    import numpy as np

    limit = 120 + 0.02 * len(corpus.lengths) if timeout_seconds is None else timeout_seconds
    # The program wants as many references of every caption.
    most = int(corpus.num_references.max())
    jar = scorer_folder() / "meteor" / "meteor-1.5.jar"
    with tempfile.TemporaryDirectory(prefix="cora-meteor-") as name:
        folder = Path(name)
        places, num_lines = _write(corpus, folder, most)
        options = ["-l", "en", "-norm", "-r", str(most), "-ssOut"]
        if len(corpus.words) < _FEW_WORDS and write_possible(
            chain.from_iterable(corpus.texts()), folder / "paraphrases.gz"
        ):
            options += ["-a", "paraphrases.gz"]
        arguments = [*QUICK, "-Xmx1G", "-jar", str(jar), "answers", "references", *options]
        lines = java.run(arguments, folder=folder, timeout_seconds=limit).read_bytes().splitlines()
    if len(lines) != num_lines:
        raise JavaFailure(f"METEOR answered {num_lines} captions with {len(lines)} lines")
    sums = np.fromiter(chain.from_iterable(map(_sums, lines)), dtype=np.float64)
    return sums.reshape(num_lines, METEOR_SUMS)[places]


def _write(corpus: Corpus, folder: Path, most: int) -> tuple[array[int], int]:
    """Write the files ``answers`` and ``references``, and return the line of each sample and the number of lines."""
    places = array("q")
    num_lines = 0
    with (folder / "answers").open("wb") as answers, (folder / "references").open("wb") as references:
        for part in corpus.parts(_WORDS_WRITTEN):
            # Short answers repeat; equal samples have equal counts.
            lines: dict[tuple[str, ...], int] = {}
            places.extend(lines.setdefault(each, num_lines + len(lines)) for each in part.texts())
            num_lines += len(lines)
            for answer, *texts in lines:
                answers.write(_line(answer))
                # A repeated reference changes no maximum.
                references.writelines(map(_line, [*texts, *[texts[0]] * (most - len(texts))]))
    return places, num_lines


def meteor_from_sums(sums: Any) -> Any:
    """Return METEOR float[R] of corpora with summed statistics float[R, 6]; 0 where nothing matches."""
    import numpy as np

    sums = np.asarray(sums, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
        mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        scores = mean * (1 - _GAMMA * (sums[:, 4] / sums[:, 5]) ** _BETA)
    return np.nan_to_num(scores, nan=0.0)


def _sums(line: bytes) -> tuple[float, ...]:
    """Return the statistics of a line of the program's counts."""
    try:
        counts = [float(field) for field in line.split()]
    except ValueError:
        counts = []
    if len(counts) != _NUM_COUNTS:
        raise JavaFailure(f"METEOR wrote a line that is none of its counts: {line[:80]!r}")
    words, reference_words, function_words, reference_function_words = counts[:4]
    # By stage: content words of the answer and of the reference, then function words of both.
    stages = [counts[start : start + 4] for start in range(4, 20, 4)]
    matches = [sum(weight * stage[kind] for weight, stage in zip(_WEIGHTS, stages, strict=True)) for kind in range(4)]
    chunks, matched, reference_matched = counts[20:]
    # The program does not count the one run of a caption that is its reference: order costs it nothing.
    is_whole = chunks == 1 and sum(map(sum, stages)) == words + reference_words
    return (
        _DELTA * matches[0] + (1 - _DELTA) * matches[2],
        _DELTA * (words - function_words) + (1 - _DELTA) * function_words,
        _DELTA * matches[1] + (1 - _DELTA) * matches[3],
        _DELTA * (reference_words - reference_function_words) + (1 - _DELTA) * reference_function_words,
        0.0 if is_whole else chunks,
        (matched + reference_matched) / 2,
    )


def _line(text: str) -> bytes:
    # Bars separate captions in the program's own protocol.
    return one_line(text.replace("|||", " ")).encode("utf-8", "replace") + b"\n"


def score_meteor(corpus: Corpus, java: JavaRuntime, limit: float | None) -> tuple[float, Numbers, Numbers]:
    """Return METEOR of the corpus, of each sample float[N], and the statistics behind both, float[N, 6]."""
    sums = meteor_sums(corpus, java, timeout_seconds=limit)
    return float(meteor_from_sums(sums.sum(axis=0, keepdims=True))[0]), meteor_from_sums(sums), sums
