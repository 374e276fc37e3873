"""METEOR 1.5 by its own program, on files: no pipe that fills, no protocol that a caption can put out of step.

The jar and its table of paraphrases come with pycocoevalcap. To load the whole table takes the program some five
seconds and 600 MB, whatever the number of captions, so it is given the part of it that matters to them. The program
counts matches; the formula stands here, so that scores of single samples, of corpora and of draws of a bootstrap come
from the same counts.

Reference: Denkowski and Lavie, "Meteor Universal", 2014.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
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
# That one run of the program is given: it has all of them in memory.
_SAMPLES = 2**17


def meteor_sums(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    java: JavaRuntime,
    *,
    timeout_seconds: float | None = None,
) -> list[tuple[float, ...]]:
    """Return what METEOR is computed from, float[N, 6] by sample; see `meteor_from_sums`.

    Args:
        hypotheses: One tokenised caption per sample.
        references: One or more tokenised captions per sample; the most favourable counts.
        java: What runs the program.
        timeout_seconds: Time limit; by default two minutes and 20 ms per caption.

    Raises:
        JavaFailure: The program crashed, ran out of time, or answered with another number of lines.
        BackendUnavailable: pycocoevalcap is not installed.
    """
    pairs = [(hypothesis, tuple(texts)) for hypothesis, texts in zip(hypotheses, references, strict=True)]
    # Short answers repeat; equal pairs have equal counts.
    distinct = list(dict.fromkeys(pairs))
    counts = dict(zip(distinct, _count(distinct, java, timeout_seconds), strict=True))
    return [counts[pair] for pair in pairs]


def _count(
    pairs: Sequence[tuple[str, tuple[str, ...]]], java: JavaRuntime, timeout_seconds: float | None
) -> list[tuple[float, ...]]:
    """Return the statistics of each pair of an answer and its references, from one run of the program."""
    hypotheses = [hypothesis for hypothesis, _ in pairs]
    most = max(len(texts) for _, texts in pairs)
    # The program wants as many references of every caption; a repeated one changes no maximum.
    gold = [text for _, texts in pairs for text in (*texts, *[texts[0]] * (most - len(texts)))]
    limit = 120 + 0.02 * (len(hypotheses) + len(gold)) if timeout_seconds is None else timeout_seconds
    jar = scorer_folder() / "meteor" / "meteor-1.5.jar"
    with tempfile.TemporaryDirectory(prefix="cora-meteor-") as name:
        folder = Path(name)
        for file, texts in (("answers", hypotheses), ("references", gold)):
            (folder / file).write_bytes("".join(_clean(text) + "\n" for text in texts).encode("utf-8", "replace"))
        options = ["-l", "en", "-norm", "-r", str(most), "-ssOut"]
        if write_possible(chain(hypotheses, gold), folder / "paraphrases.gz"):
            options += ["-a", "paraphrases.gz"]
        arguments = [*QUICK, "-Xmx1G", "-jar", str(jar), "answers", "references", *options]
        output = java.run(arguments, folder=folder, timeout_seconds=limit)
    lines = output.decode("utf-8", "replace").splitlines()
    if len(lines) != len(hypotheses):
        raise JavaFailure(f"METEOR answered {len(hypotheses)} captions with {len(lines)} lines")
    return [_sums(line) for line in lines]


def meteor_from_sums(sums: Any) -> Any:
    """Return METEOR float[R] of corpora with summed statistics float[R, 6]; 0 where nothing matches."""
    import numpy as np

    sums = np.asarray(sums, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
        mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        scores = mean * (1 - _GAMMA * (sums[:, 4] / sums[:, 5]) ** _BETA)
    return np.nan_to_num(scores, nan=0.0)


def _sums(line: str) -> tuple[float, ...]:
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


def _clean(text: str) -> str:
    # Bars separate captions in the program's own protocol.
    return one_line(text.replace("|||", " "))


def score_meteor(corpus: Corpus, java: JavaRuntime, limit: float | None) -> tuple[float, Numbers, Numbers]:
    """Return METEOR of the corpus, of each sample float[N], and the statistics behind both, float[N, 6]."""
    import numpy as np

    parts = (part.texts() for part in corpus.parts(_SAMPLES))
    sums = np.concatenate([np.array(meteor_sums(*texts, java, timeout_seconds=limit)) for texts in parts])
    return float(meteor_from_sums(sums.sum(axis=0, keepdims=True))[0]), meteor_from_sums(sums), sums
