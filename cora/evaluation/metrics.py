"""Caption metrics over a corpus: BLEU-1..4, METEOR, ROUGE-L, CIDEr-D and SPICE, each isolated from the others.

A metric that cannot be computed is null with a reason; it never takes another one with it and never becomes a number.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cora.errors import BackendUnavailable, ConfigError, did_you_mean
from cora.evaluation.corpus import Corpus
from cora.evaluation.intervals import Bootstrap
from cora.evaluation.java import HOW_TO_GET_JAVA, JavaFailure, JavaRuntime, find_java
from cora.evaluation.meteor import meteor_from_sums, score_meteor
from cora.evaluation.ngrams import bleu_sums, cider
from cora.evaluation.rouge import rouge_l
from cora.evaluation.spice import score_spice
from cora.evaluation.spice_files import HOW_TO_GET_SPICE
from cora.evaluation.tokenizer import PTB_NAME, REGEX_NAME, jar_digest, tokenize, tokenize_by_regex
from cora.evaluation.values import MetricValue

if TYPE_CHECKING:
    from cora.evaluation.values import Numbers

__all__ = ["CAPTION_METRICS", "CORAEvaluator", "CaptionScores", "bleu_from_sums"]

logger = logging.getLogger(__name__)

CAPTION_METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider", "spice")
Tokenizer = Literal["ptb", "regex"]
# Words that are in lists, and not in arrays, at a time.
_WORDS = 2**19
_HOW = {"meteor": HOW_TO_GET_JAVA, "spice": HOW_TO_GET_SPICE}


@dataclass(slots=True)
class CaptionScores:
    """Scores of a corpus.

    Attributes:
        corpus: Every name of `CAPTION_METRICS` with its value. BLEU and METEOR come from summed statistics, the others
            are means.
        per_sample: Metric -> float[N], one score per sample, for the metrics that have a value.
        provenance: Tokeniser and Java behind the numbers, as plain values.
        bleu_sums: What BLEU is computed from, float[N, 10] by sample, see `bleu_from_sums`; None without BLEU.
        meteor_sums: What METEOR is computed from, float[N, 6] by sample, see `cora.evaluation.meteor`; None without it.
    """

    corpus: dict[str, MetricValue]
    per_sample: dict[str, Numbers] = field(default_factory=dict, compare=False)
    provenance: dict[str, Any] = field(default_factory=dict)
    bleu_sums: Numbers | None = field(default=None, compare=False)
    meteor_sums: Numbers | None = field(default=None, compare=False)

    def with_intervals(self, bootstrap: Bootstrap) -> dict[str, MetricValue]:
        """Return the corpus scores with confidence intervals; the document frequencies of CIDEr stay those of all."""
        found: dict[str, MetricValue] = {}
        for name, metric in self.corpus.items():
            interval = None
            if name.startswith("bleu_") and self.bleu_sums is not None:
                n = int(name.removeprefix("bleu_"))
                interval = bootstrap.interval(self.bleu_sums, partial(bleu_from_sums, n=n))
            elif name == "meteor" and self.meteor_sums is not None:
                interval = bootstrap.interval(self.meteor_sums, meteor_from_sums)
            elif name in self.per_sample:
                interval = bootstrap.of_mean(self.per_sample[name])
            found[name] = replace(metric, interval=interval)
        return found


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
        timeout_seconds: Time limit of each Java program; None scales it with the number of captions.
        tokenizer: ``ptb`` is that of published numbers and needs Java; ``regex`` needs none, and the results say so.
        metrics: Which to compute; None is all, and takes it that SPICE may not be installed.

    Raises:
        ConfigError: A metric that does not exist.
    """

    def __init__(
        self,
        *,
        java: str | Path | None = None,
        timeout_seconds: float | None = None,
        tokenizer: Tokenizer = "ptb",
        metrics: Sequence[str] | None = None,
    ) -> None:
        if unknown := [name for name in metrics or () if name not in CAPTION_METRICS]:
            raise ConfigError(
                f"no caption metric '{unknown[0]}'{did_you_mean(unknown[0], CAPTION_METRICS)}; there are "
                f"{', '.join(CAPTION_METRICS)}"
            )
        self._java_option = java
        self._timeout_seconds = timeout_seconds
        self._tokenizer = tokenizer
        self._metrics = tuple(CAPTION_METRICS if metrics is None else metrics)
        self.requires_spice = metrics is not None and "spice" in metrics

    def why_unavailable(self) -> str | None:
        """Return why caption metrics cannot be computed here, or None; worth asking before hours of generation."""
        if self._tokenizer != "ptb" and not {"meteor", "spice"} & set(self._metrics):
            return None
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
        java, why = self._find_java()
        try:
            corpus = self._tokenize(predictions, references, java, why)
        except BackendUnavailable as error:
            return _without_values(MetricValue(None, "unavailable", str(error), HOW_TO_GET_JAVA))
        except (JavaFailure, OSError, UnicodeDecodeError) as error:
            logger.warning("the caption tokeniser failed: %s", error)
            return _without_values(MetricValue(None, "failed", f"tokeniser: {error}", "see why; score again"))
        return self._score_tokenized(corpus, java, why)

    def _find_java(self) -> tuple[JavaRuntime | None, str]:
        """Return the Java, or None and why there is none."""
        try:
            return find_java(self._java_option), ""
        except BackendUnavailable as error:
            return None, str(error)

    def _tokenize(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], java: JavaRuntime | None, why: str
    ) -> Corpus:
        """Return predictions and references as tokens."""
        texts = chain(predictions, chain.from_iterable(references))
        if self._tokenizer == "regex":
            tokens = tokenize_by_regex(texts)
        elif java is None:
            raise BackendUnavailable(why)
        else:
            tokens = tokenize(texts, java, timeout_seconds=self._timeout_seconds)
        return Corpus.of(tokens, [len(group) for group in references])

    def _score_tokenized(self, corpus: Corpus, java: JavaRuntime | None, why: str) -> CaptionScores:
        """Return the scores: Java programs run while the scorers in Python do."""
        found = CaptionScores(
            {name: MetricValue(None, "not_applicable", "was not asked for") for name in CAPTION_METRICS},
            provenance=_provenance(self._tokenizer, java),
        )
        with ThreadPoolExecutor(max_workers=len(_PROGRAMS)) as pool:
            running: dict[str, Future[_Found]] = {}
            for name, program in _PROGRAMS.items():
                if name not in self._metrics:
                    continue
                if java is None:
                    found.corpus[name] = MetricValue(None, "unavailable", why, HOW_TO_GET_JAVA)
                else:
                    running[name] = pool.submit(program, corpus, java, self._timeout_seconds)
            for names, scorer in _SCORERS.items():
                if wanted := [name for name in names if name in self._metrics]:
                    _add(found, wanted, partial(scorer, found, corpus))
            for name, future in running.items():
                _add(found, [name], _result_of(found, name, future))
        for name, metric in found.corpus.items():
            if metric.status == "ok":
                found.corpus[name] = replace(metric, why=_caveat(name, corpus, self._tokenizer))
        return found


# By metric, the score of the corpus and of each sample.
_Values = dict[str, tuple[float, Any]]
# Score of the corpus, of each sample, and the statistics that a program counted, if it did.
_Found = tuple[float, Any, Any]


def _result_of(found: CaptionScores, name: str, future: Future[_Found]) -> Callable[[], _Values]:
    """Return what waits for a Java program and keeps the statistics it counted."""

    def wait() -> _Values:
        corpus, samples, sums = future.result()
        if name == "meteor":
            found.meteor_sums = sums
        return {name: (corpus, samples)}

    return wait


def _add(found: CaptionScores, wanted: Sequence[str], scores: Callable[[], _Values]) -> None:
    """Add metrics to what was found; whatever one of them trips over costs no other."""
    import numpy as np

    try:
        values = scores()
    except BackendUnavailable as error:
        how = _HOW.get(wanted[0], "")
        found.corpus.update((name, MetricValue(None, "unavailable", str(error), how)) for name in wanted)
    except Exception as error:
        logger.warning("%s failed: %s", ", ".join(wanted), error, exc_info=not isinstance(error, JavaFailure))
        why = str(error) if isinstance(error, JavaFailure) else f"{type(error).__name__}: {error}"
        found.corpus.update((name, MetricValue(None, "failed", why, "see the log")) for name in wanted)
    else:
        for name in wanted:
            value, samples = values[name]
            found.corpus[name] = MetricValue(float(value), "ok")
            found.per_sample[name] = np.asarray(samples, dtype=np.float64)


def _caveat(name: str, corpus: Corpus, tokenizer: Tokenizer) -> str:
    if tokenizer == "regex":
        return f"tokens by {REGEX_NAME}"
    if name == "cider" and _are_equal(references for _, references in _samples(corpus)):
        return "CIDEr is 0 by definition where all references are the same: no word tells samples apart"
    return ""


def _are_equal(items: Iterable[object]) -> bool:
    items = iter(items)
    first = next(items)
    return all(item == first for item in items)


def _samples(corpus: Corpus) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Yield the words of each sample's answer and references; those of all samples at once would be large lists."""
    return chain.from_iterable(corpus.parts(_WORDS))


def _bleu(found: CaptionScores, corpus: Corpus) -> _Values:
    """Return BLEU and keep the statistics behind it, which are counted once; see `bleu_from_sums`."""
    found.bleu_sums = sums = bleu_sums(corpus)
    total = sums.sum(axis=0, keepdims=True)
    return {f"bleu_{n}": (bleu_from_sums(total, n)[0], bleu_from_sums(sums, n)) for n in (1, 2, 3, 4)}


def _rouge_l(_: CaptionScores, corpus: Corpus) -> _Values:
    samples = array("d", (rouge_l(answer, references) for answer, references in _samples(corpus)))
    return {"rouge_l": (sum(samples) / len(samples), samples)}


def _cider(_: CaptionScores, corpus: Corpus) -> _Values:
    samples = cider(corpus)
    return {"cider": (samples.mean(), samples)}


_SCORERS: dict[tuple[str, ...], Callable[[CaptionScores, Corpus], _Values]] = {
    ("bleu_1", "bleu_2", "bleu_3", "bleu_4"): _bleu,
    ("rouge_l",): _rouge_l,
    ("cider",): _cider,
}


def _spice(corpus: Corpus, java: JavaRuntime, limit: float | None) -> _Found:
    return *score_spice(corpus, java, limit), None


# Programs of their own, which take minutes at worst.
_PROGRAMS: dict[str, Callable[[Corpus, JavaRuntime, float | None], _Found]] = {
    "meteor": score_meteor,
    "spice": _spice,
}


def _without_values(reason: MetricValue) -> CaptionScores:
    return CaptionScores(dict.fromkeys(CAPTION_METRICS, reason))


def _provenance(tokenizer: Tokenizer, java: JavaRuntime | None) -> dict[str, Any]:
    found: dict[str, Any] = {"tokenizer": REGEX_NAME}
    if tokenizer == "ptb":
        found = {"tokenizer": PTB_NAME, "tokenizer_jar_sha256": jar_digest()}
    if java is None:
        return found
    return {**found, "java": str(java.path), "java_version": java.version, "java_found_by": java.source}
