"""Seconds of all caption metrics but SPICE, beside pycocoevalcap run as its own example does.

No two captions are the same: each is strung together from English phrases of METEOR's table of paraphrases, and the
answer repeats some of its reference's phrases, paraphrases some, and has others instead.
"""

from __future__ import annotations

import gzip
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from cora.bench.timing import environment
from cora.evaluation.java import find_java
from cora.evaluation.metrics import CORAEvaluator
from cora.evaluation.paraphrases import paraphrase_file

__all__ = ["CAPTIONS", "COLUMNS", "make_captions", "run"]

COLUMNS = (
    "captions",
    "distinct",
    "vocabulary",
    "words",
    "metrics_s",
    "pycocoevalcap_s",
    "ratio",
    "largest_difference",
    "rounds",
    "java",
    "device",
    "cores",
    "torch",
)
CAPTIONS = 5349
# Words of a reference, at least.
_WORDS = 17
# Every so many paraphrases of the table are taken, for enough of them from all of it.
_STEP = 80
# Chances of a phrase to be repeated, paraphrased or replaced; otherwise it is left out.
_REPEATED, _PARAPHRASED, _REPLACED = 0.45, 0.15, 0.3
# In its row of `CaptionScores.corpus`.
_THEIR_NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider")


def run(*, rounds: int = 3) -> dict[str, Any]:
    """Return the keys of `COLUMNS`; seconds and their ratio are medians of the rounds, in which the two take turns.

    A run of one caption before them has imports and files in memory.
    """
    predictions, references = make_captions()
    evaluator = CORAEvaluator(metrics=_THEIR_NAMES)
    evaluator.score(predictions[:1], [references[:1]])
    ours, theirs, largest = [], [], 0.0
    for _ in range(rounds):
        seconds, scores = _timed(lambda: evaluator.score(predictions, [[text] for text in references]))
        ours.append(seconds)
        seconds, expected = _timed(lambda: _pycocoevalcap(predictions, references))
        theirs.append(seconds)
        for name, value in zip(_THEIR_NAMES, expected, strict=True):
            found = scores.corpus[name].value
            if found is None:
                raise RuntimeError(f"{name}: {scores.corpus[name].why}")
            largest = max(largest, abs(found - value))
    words = [text.split() for text in (*predictions, *references)]
    row = {
        "captions": len(predictions),
        "distinct": len({*predictions, *references}),
        "vocabulary": len({word for text in words for word in text}),
        "words": round(sum(map(len, words)) / len(words), 1),
        "metrics_s": round(statistics.median(ours), 2),
        "pycocoevalcap_s": round(statistics.median(theirs), 2),
        "ratio": round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 2),
        "largest_difference": float(f"{largest:.1e}"),
        "rounds": rounds,
        "java": find_java().version,
        **environment(),
    }
    return {column: row[column] for column in COLUMNS}


def make_captions(count: int = CAPTIONS, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return (answers, references), no two of them equal."""
    draw = random.Random(seed)
    phrases = _phrases()
    answers: dict[str, None] = {}
    references: dict[str, None] = {}
    while len(answers) < count:
        reference: list[str] = []
        answer: list[str] = []
        while sum(len(text.split()) for text in reference) < _WORDS:
            phrase, paraphrase = draw.choice(phrases)
            reference.append(phrase)
            options = [[phrase], [paraphrase], [draw.choice(phrases)[0]], []]
            weights = [_REPEATED, _PARAPHRASED, _REPLACED, 1 - _REPEATED - _PARAPHRASED - _REPLACED]
            answer += draw.choices(options, weights)[0]
        pair = " ".join(answer), " ".join(reference)
        if pair[0] != pair[1] and not {*pair} & (answers.keys() | references.keys()):
            answers[pair[0]] = references[pair[1]] = None
    return list(answers), list(references)


def _phrases() -> list[tuple[str, str]]:
    """Return phrases of METEOR's table with a paraphrase each."""
    with gzip.open(paraphrase_file(), "rt", encoding="utf-8") as stream:
        # Three lines each: a probability, the phrase, the other one.
        entries = islice(zip(stream, stream, stream, strict=True), None, None, _STEP)
        found = [(phrase.strip(), paraphrase.strip()) for _, phrase, paraphrase in entries]
    return [pair for pair in found if all(text.replace(" ", "").isalpha() and text.isascii() for text in pair)]


def _pycocoevalcap(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the scores of the corpus as its own example computes them: the tokeniser, then each scorer."""
    from pycocoevalcap.bleu.bleu import Bleu  # type: ignore[import-untyped]  # has no types
    from pycocoevalcap.cider.cider import Cider  # type: ignore[import-untyped]  # has no types
    from pycocoevalcap.meteor.meteor import Meteor  # type: ignore[import-untyped]  # has no types
    from pycocoevalcap.rouge.rouge import Rouge  # type: ignore[import-untyped]  # has no types
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer  # type: ignore[import-untyped]  # has no types

    before = os.environ["PATH"]
    # It knows no other way to find Java.
    os.environ["PATH"] = f"{find_java().path.parent}{os.pathsep}{before}"
    try:
        gold, answers = (
            PTBTokenizer().tokenize({index: [{"caption": text}] for index, text in enumerate(captions)})
            for captions in (references, predictions)
        )
        bleu, _ = Bleu(4).compute_score(gold, answers, verbose=0)
        meteor, _ = Meteor().compute_score(gold, answers)
    finally:
        os.environ["PATH"] = before
    rouge, _ = Rouge().compute_score(gold, answers)
    cider, _ = Cider().compute_score(gold, answers)
    return [float(value) for value in (*bleu, meteor, rouge, cider)]


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found
