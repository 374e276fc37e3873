"""Several runs over the same questions side by side: their scores, which is best, and what differs from a baseline."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cora.errors import ConfigError, DataError, did_you_mean
from cora.evaluation.judge.results import Judged, name_judges, read_judged, with_verdicts
from cora.evaluation.labels import LABELS, label_of
from cora.evaluation.paired import Difference, compare, score_of
from cora.evaluation.samples import Sample, read_samples

__all__ = ["DIGITS", "Cell", "Comparison", "Line", "collect"]

_NOT_BY_DEFAULT = ("bleu_1", "bleu_2", "bleu_3")
# Scores that print the same are equally good.
DIGITS = 4

# What makes a sample the same question in two runs. The folder of its panorama may differ between machines.
_Item = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Cell:
    """A run's score in a metric: None where it has none; `difference` is None in the line of the baseline."""

    score: float | None
    is_best: bool
    difference: Difference | None


@dataclass(frozen=True, slots=True)
class Line:
    """A run: its name, how many questions it answered, and a cell by metric."""

    name: str
    answered: int
    questions: int
    cells: dict[str, Cell]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs over the same questions; all differences are to the run called `baseline`.

    `remarks` say which scores are not over all answers of a run, one sentence each.
    """

    metrics: list[str]
    baseline: str
    lines: list[Line]
    num_images: int
    resamples: int
    seed: int
    remarks: list[str]


def collect(
    runs: Sequence[str | Path],
    *,
    baseline: str | Path | None = None,
    metrics: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Return the comparison of runs, each the output folder of an evaluation.

    Args:
        runs: Folders with a ``samples.jsonl``; what judges left in them counts as a metric.
        baseline: One of them; the first by default.
        metrics: What to compare; by default what any run has, BLEU by its fourth order.
        resamples: Draws of the paired bootstrap.
        seed: Of the draws.

    Raises:
        DataError: A folder is no evaluation, or two runs are not over the same questions; names the difference.
        ConfigError: A run is given twice, the baseline is none of them, or no run has a metric that was asked for.
    """
    folders = [Path(run) for run in runs]
    names = _names(folders)
    samples = dict(zip(names, map(read_samples, folders), strict=True))
    judged = _read_judges(names, folders)
    samples = {name: list(with_verdicts(samples[name], judged[name])) for name in names}
    chosen = names[0] if baseline is None else _find_baseline(Path(baseline), folders, names)
    ordered = {name: _in_order(chosen, samples[chosen], name, samples[name]) for name in names}
    present = _present(samples.values())
    if unknown := [name for name in metrics if name not in present]:
        raise ConfigError(
            f"no run has scores in '{unknown[0]}'{did_you_mean(unknown[0], present)}; there are {present}"
        )
    wanted = list(metrics) or [name for name in present if name not in _NOT_BY_DEFAULT]
    table = {name: {metric: score_of(metric, ordered[name]) for metric in wanted} for name in names}
    best = {metric: _best([table[name][metric] for name in names]) for metric in wanted}

    def cell(name: str, metric: str) -> Cell:
        score = table[name][metric]
        is_best = len(names) > 1 and score is not None and round(score, DIGITS) == best[metric]
        if name == chosen:
            return Cell(score, is_best, None)
        difference = compare(metric, ordered[name], ordered[chosen], resamples=resamples, seed=seed)
        return Cell(score, is_best, difference)

    lines = [
        Line(
            name,
            sum(sample.prediction is not None for sample in samples[name]),
            len(samples[name]),
            {metric: cell(name, metric) for metric in wanted},
        )
        for name in names
    ]
    num_images = len({sample.image for sample in samples[chosen]})
    return Comparison(wanted, chosen, lines, num_images, resamples, seed, list(_remarks(judged, wanted)))


def _read_judges(names: Sequence[str], folders: Sequence[Path]) -> dict[str, dict[str, Judged]]:
    """Return, by run, what each judge said by its name; the same judge has the same name in all runs."""
    found = {name: read_judged(folder) for name, folder in zip(names, folders, strict=True)}
    titles = name_judges(chain.from_iterable(found.values()))
    return {name: {titles[each.digest]: each for each in judges} for name, judges in found.items()}


def _remarks(judged: Mapping[str, Mapping[str, Judged]], wanted: Collection[str]) -> Iterator[str]:
    for name, judges in judged.items():
        for metric, each in judges.items():
            if metric in wanted and (each.num_verdicts < each.num_answers or each.warning):
                yield "; ".join(filter(None, (f"{name}, {label_of(metric)}: {each.coverage}", each.warning))) + "."


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest end of each path that no other run has."""
    whole = [folder.resolve() for folder in folders]
    if twice := next((folder for folder in whole if whole.count(folder) > 1), None):
        raise ConfigError(f"{twice} is given twice")
    for length in range(1, max(len(folder.parts) for folder in whole) + 1):
        names = ["/".join(folder.parts[-length:]) for folder in whole]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different paths have different parts")


def _find_baseline(baseline: Path, folders: Sequence[Path], names: Sequence[str]) -> str:
    for folder, name in zip(folders, names, strict=True):
        if str(baseline) == name or baseline.resolve() == folder.resolve():
            return name
    raise ConfigError(f"the baseline {baseline} is none of the runs{did_you_mean(str(baseline), names)}")


def _item(sample: Sample) -> _Item:
    return sample.sample_id, Path(sample.image).name, sample.query


def _in_order(baseline: str, expected: Sequence[Sample], name: str, found: Sequence[Sample]) -> list[Sample]:
    """Return the samples of a run in the order of the baseline's, after a check that they are the same questions."""
    by_item = _by_item(name, found)
    wanted = _by_item(baseline, expected)
    _check_holds_all(name, by_item, baseline, wanted)
    _check_holds_all(baseline, wanted, name, by_item)
    for item, sample in wanted.items():
        if sorted(sample.references) != sorted(by_item[item].references):
            raise DataError(
                f"the runs have different references for sample {item[0]}: {baseline} has {sample.references}, "
                f"{name} has {by_item[item].references}"
            )
    return [by_item[item] for item in wanted]


def _check_holds_all(name: str, items: Iterable[_Item], other: str, others: Collection[_Item]) -> None:
    have = set(items)
    if missing := [item for item in others if item not in have]:
        sample_id, image, query = missing[0]
        raise DataError(
            f"the runs are over different questions: {name} lacks {len(missing)} of the {len(others)} that {other} "
            f"has; the first is sample {sample_id} about {image}: {query[:80]!r}"
        )


def _by_item(name: str, samples: Sequence[Sample]) -> dict[_Item, Sample]:
    found: dict[_Item, Sample] = {}
    for sample in samples:
        if found.setdefault(_item(sample), sample) is not sample:
            raise DataError(f"{name} has sample {sample.sample_id} twice, with the same panorama and question")
    return found


def _present(runs: Iterable[Sequence[Sample]]) -> list[str]:
    scored: set[str] = {metric for samples in runs for sample in samples for metric in sample.scores}
    return [*(name for name in LABELS if name in scored), *sorted(scored - set(LABELS))]


def _best(scores: Sequence[float | None]) -> float | None:
    known = [round(score, DIGITS) for score in scores if score is not None]
    return max(known) if known else None
