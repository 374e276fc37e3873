"""Caption metrics over a corpus: BLEU-1..4, ROUGE-L and CIDEr-D by pycocoevalcap, each isolated from the others.

A metric that cannot be computed is null with a reason; it never takes another one with it and never becomes a number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cora.errors import BackendUnavailable
from cora.evaluation.java import HOW_TO_GET_JAVA, JavaFailure, JavaRuntime, find_java
from cora.evaluation.tokenizer import PTB_NAME, jar_digest, tokenize
from cora.evaluation.values import MetricValue

__all__ = ["CAPTION_METRICS", "CORAEvaluator", "CaptionScores", "bleu_from_sums"]

logger = logging.getLogger(__name__)

CAPTION_METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider", "spice")
_NOT_RELEASED = {
    "meteor": MetricValue(
        None,
        "unavailable",
        "METEOR is not part of this release: its Java program needs a driver that cannot hang",
        "score predictions.csv with METEOR 1.5 (option -norm) outside CORA",
    ),
    "spice": MetricValue(
        None,
        "unavailable",
        "SPICE is not part of this release: it needs CoreNLP 3.6 models that no package carries",
        "score predictions.csv with SPICE 1.0 outside CORA",
    ),
}

# Sample -> its tokenised captions; the key is the position of the sample, never the image, which has many questions.
_Captions = dict[int, list[str]]
_Scorer = Callable[[_Captions, _Captions], dict[str, tuple[float, list[float]]]]


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Scores of a corpus.

    Attributes:
        corpus: Every name of `CAPTION_METRICS` with its value. BLEU comes from summed statistics, the others are means.
        per_sample: Metric -> one score per sample, for the metrics that have a value.
        provenance: Tokeniser and Java behind the numbers, as plain values.
        bleu_sums: What BLEU is computed from, float[N, 10] by sample; see `bleu_from_sums`.
    """

    corpus: dict[str, MetricValue]
    per_sample: dict[str, list[float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    bleu_sums: list[tuple[float, ...]] = field(default_factory=list)


def bleu_from_sums(sums: Any, n: int) -> Any:
    """Return BLEU-n float[R] of corpora with summed statistics float[R, 10].

    Args:
        sums: Matching 1- to 4-grams, 1- to 4-grams of the answers, tokens of the answers, and of the references that
            are closest in length.
        n: Longest n-grams, from 1 to 4.
    """
    import numpy as np

    # The constants of pycocoevalcap, for values equal to its own.
    precisions = (sums[:, :n] + 1e-15) / (sums[:, 4 : 4 + n] + 1e-9)
    ratio = (sums[:, 8] + 1e-15) / (sums[:, 9] + 1e-9)
    penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return np.prod(precisions, axis=1) ** (1 / n) * penalty


class CORAEvaluator:
    """Scores answers against references.

    Args:
        java: A ``java`` program or Java home; by default the first that is found, see `cora.evaluation.java`.
        timeout_seconds: Time limit of the tokeniser; None scales it with the number of captions.
    """

    def __init__(self, *, java: str | Path | None = None, timeout_seconds: float | None = None) -> None:
        self._java_option = java
        self._timeout_seconds = timeout_seconds

    def why_unavailable(self) -> str | None:
        """Return why no caption metric can be computed here, or None; worth asking before hours of generation."""
        try:
            find_java(self._java_option)
            jar_digest()
        except (BackendUnavailable, OSError) as error:
            return str(error)
        return None

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
        """Return the scores of one prediction per sample against one or more references per sample.

        Raises:
            ValueError: The lengths differ, or a sample has no reference.
        """
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions for {len(references)} samples")
        if without := [index for index, texts in enumerate(references) if not texts]:
            raise ValueError(f"sample {without[0]} has no reference")
        if not predictions:
            return _without_values(MetricValue(None, "not_applicable", "there is no answer to score"))
        try:
            java = find_java(self._java_option)
            hypotheses, gold = self._tokenize(predictions, references, java)
        except BackendUnavailable as error:
            return _without_values(MetricValue(None, "unavailable", str(error), HOW_TO_GET_JAVA))
        except (JavaFailure, OSError, UnicodeDecodeError) as error:
            logger.warning("the caption tokeniser failed: %s", error)
            return _without_values(MetricValue(None, "failed", f"tokeniser: {error}", "see why; score again"))
        return _score_tokenized(gold, hypotheses, _java_provenance(java))

    def _tokenize(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], java: JavaRuntime
    ) -> tuple[_Captions, _Captions]:
        """Return (predictions, references) as tokens by sample, from one run of the tokeniser."""
        texts = [*predictions, *(text for group in references for text in group)]
        tokens = iter(tokenize(texts, java, timeout_seconds=self._timeout_seconds))
        hypotheses = {index: [next(tokens)] for index in range(len(predictions))}
        gold = {index: [next(tokens) for _ in group] for index, group in enumerate(references)}
        return hypotheses, gold


def _score_tokenized(gold: _Captions, hypotheses: _Captions, provenance: dict[str, Any]) -> CaptionScores:
    corpus: dict[str, MetricValue] = dict(_NOT_RELEASED)
    per_sample: dict[str, list[float]] = {}
    for names, scorer in _SCORERS.items():
        try:
            scores = scorer(gold, hypotheses)
        except Exception as error:  # whatever one library trips over must not cost the other metrics
            logger.warning("%s failed: %s", ", ".join(names), error, exc_info=True)
            why = f"{type(error).__name__}: {error}"
            corpus.update((name, MetricValue(None, "failed", why, "see the log")) for name in names)
            continue
        for name, (value, values) in scores.items():
            corpus[name] = MetricValue(float(value), "ok", _caveat(name, gold))
            per_sample[name] = [float(sample) for sample in values]
    bleu_sums = _bleu_sums(gold, hypotheses) if "bleu_4" in per_sample else []
    return CaptionScores({name: corpus[name] for name in CAPTION_METRICS}, per_sample, provenance, bleu_sums)


def _caveat(name: str, gold: Mapping[int, Sequence[str]]) -> str:
    if name == "cider" and len({tuple(texts) for texts in gold.values()}) < 2:
        return "CIDEr is 0 by definition where all references are the same: no word tells samples apart"
    return ""


def _bleu(gold: _Captions, hypotheses: _Captions) -> dict[str, tuple[float, list[float]]]:
    from pycocoevalcap.bleu.bleu import Bleu  # type: ignore[import-untyped]  # has no types

    corpus, samples = Bleu(4).compute_score(gold, hypotheses, verbose=0)
    return {f"bleu_{n}": (corpus[n - 1], list(samples[n - 1])) for n in (1, 2, 3, 4)}


def _bleu_sums(gold: _Captions, hypotheses: _Captions) -> list[tuple[float, ...]]:
    """Return the statistics behind BLEU by sample, see `bleu_from_sums`."""
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test  # type: ignore[import-untyped]  # has no types

    found = (cook_test(hypotheses[key][0], cook_refs(texts), eff="closest") for key, texts in gold.items())
    return [(*each["correct"], *each["guess"], each["testlen"], each["reflen"]) for each in found]


def _rouge_l(gold: _Captions, hypotheses: _Captions) -> dict[str, tuple[float, list[float]]]:
    from pycocoevalcap.rouge.rouge import Rouge  # type: ignore[import-untyped]  # has no types

    corpus, samples = Rouge().compute_score(gold, hypotheses)
    return {"rouge_l": (corpus, list(samples))}


def _cider(gold: _Captions, hypotheses: _Captions) -> dict[str, tuple[float, list[float]]]:
    from pycocoevalcap.cider.cider import Cider  # type: ignore[import-untyped]  # has no types

    corpus, samples = Cider().compute_score(gold, hypotheses)
    return {"cider": (corpus, list(samples))}


_SCORERS: dict[tuple[str, ...], _Scorer] = {
    ("bleu_1", "bleu_2", "bleu_3", "bleu_4"): _bleu,
    ("rouge_l",): _rouge_l,
    ("cider",): _cider,
}


def _without_values(reason: MetricValue) -> CaptionScores:
    return CaptionScores({name: _NOT_RELEASED.get(name, reason) for name in CAPTION_METRICS})


def _java_provenance(java: JavaRuntime) -> dict[str, Any]:
    return {
        "tokenizer": PTB_NAME,
        "tokenizer_jar_sha256": jar_digest(),
        "java": str(java.path),
        "java_version": java.version,
        "java_found_by": java.source,
    }
