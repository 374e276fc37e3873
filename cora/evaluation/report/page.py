"""Puts a run's report together: reads the run's folder, fills the template, writes ``report.html``.

The page allows itself no network and no script but its own (a content security policy with their digests); everything
that comes from data is escaped, or is JSON that the script shows as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from cora.errors import ConfigError, DataError
from cora.evaluation.judge.results import Judged, name_judges, read_judged, with_verdicts
from cora.evaluation.labels import label_of
from cora.evaluation.report.charts import bars, histogram
from cora.evaluation.report.pictures import embed_pictures
from cora.evaluation.report.scores import groups_of, metrics_of
from cora.evaluation.report.totals import Totals
from cora.evaluation.samples import Sample, iterate_samples
from cora.files import write_file
from cora.viewer import SCRIPTS, viewer_source

__all__ = ["REPORT_NAME", "ReportOptions", "read_metrics", "write_report"]

REPORT_NAME = "report.html"
_SCRIPTS = ("table.js", "page.js")


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report holds, and so how large it gets.

    Attributes:
        max_pictures: Most panoramas that are embedded; the page says how many there are.
        viewer_width: Pixels across of a panorama to look around in.
        thumbnail_width: Pixels across of a panorama in the table.
        max_rows: Most questions; the page says how many there are.
    """

    max_pictures: int = 100
    viewer_width: int = 1024
    thumbnail_width: int = 160
    max_rows: int = 5000

    def __post_init__(self) -> None:
        """Refuse values that describe nothing."""
        if self.max_pictures < 0 or self.max_rows < 1:
            raise ConfigError(f"a report has 0 or more pictures and at least 1 row, got {self}")
        if min(self.viewer_width, self.thumbnail_width) < 2 or self.viewer_width > 8192:
            raise ConfigError(f"pictures of a report are 2 to 8192 pixels wide, got {self}")


def write_report(folder: str | Path, path: str | Path | None = None, *, options: ReportOptions | None = None) -> Path:
    """Write the report of a run and return where it is.

    Args:
        folder: Folder of the run: metrics.json and samples.jsonl are read, and what judges left in it.
        path: Where the report goes; ``report.html`` in the folder by default.
        options: What it holds.

    Raises:
        DataError: A file of the run is missing or damaged, or the report cannot be written.
    """
    folder, options = Path(folder), options or ReportOptions()
    document, totals = read_metrics(folder), Totals()
    judges = read_judged(folder)
    names = name_judges(judges)
    judged = {names[each.digest]: each for each in judges}
    shown: list[Sample] = []
    for sample in with_verdicts(iterate_samples(folder), judged):
        totals.add(sample)
        if len(shown) < options.max_rows:
            shown.append(sample)
    path = folder / REPORT_NAME if path is None else Path(path)
    write_file(path, _render(folder.resolve().name, document, totals, shown, judged, options))
    return path


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return a run's ``metrics.json``.

    Raises:
        DataError: It is missing or damaged.
    """
    path = folder / "metrics.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(document[key], dict) for key in ("metrics", "counts", "provenance")):
            raise TypeError("metrics, counts and provenance are no mappings")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: {folder} is not the folder of an evaluation") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the scores of an evaluation: {type(error).__name__}: {error}") from None
    return dict(document)


def _render(
    name: str,
    document: Mapping[str, Any],
    totals: Totals,
    shown: Sequence[Sample],
    judged: Mapping[str, Judged],
    options: ReportOptions,
) -> str:
    metrics, groups = totals.metrics, groups_of(document)
    data = _data(shown, metrics, document, options)
    histograms = [histogram(f"{label_of(metric)} of samples", scores) for metric, scores in totals.spread()]
    scripts = [*map(viewer_source, SCRIPTS), *map(_source, _SCRIPTS)]
    style, script = _source("report.css"), "\n".join(scripts)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_source("report.html.jinja")).render(
        name=name,
        policy=f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'",
        style=Markup(style),
        script=Markup(script),
        data=Markup(_inert_json(data)),
        metrics=metrics_of(document),
        groups=groups,
        charts=[*(bars(title, each) for title, each in groups.items()), *histograms],
        metric_labels=[label_of(metric) for metric in metrics],
        types=totals.means_by_type(),
        judges={label_of(name): each for name, each in judged.items()},
        counts=document["counts"],
        provenance=list(_flat(_provenance(document, judged))),
        created=document["provenance"].get("created", ""),
        num_samples=totals.questions,
        num_rows=len(shown),
        num_panoramas=len(totals.panoramas),
        num_pictures=sum(bool(picture["thumbnail"]) for picture in data["panoramas"]),
        options=options,
    )


def _provenance(document: Mapping[str, Any], judged: Mapping[str, Judged]) -> dict[str, Any]:
    judges = {name: {"folder": each.folder.name, **each.judge, **each.origin} for name, each in judged.items()}
    return {**{key: value for key, value in document["provenance"].items() if key != "views"}, **judges}


def _data(
    samples: Sequence[Sample], metrics: Sequence[str], document: Mapping[str, Any], options: ReportOptions
) -> dict[str, Any]:
    """Return what the script shows."""
    pictures = embed_pictures(
        (sample.image for sample in samples),
        max_pictures=options.max_pictures,
        thumbnail_width=options.thumbnail_width,
        viewer_width=options.viewer_width,
    )
    places = {path: index for index, path in enumerate(pictures)}
    return {
        "metrics": [{"name": metric, "label": label_of(metric)} for metric in metrics],
        "views": document["provenance"].get("views", []),
        "panoramas": [
            {"name": each.name, "thumbnail": each.thumbnail, "viewer": each.viewer, "why": each.why}
            for each in pictures.values()
        ],
        "samples": [
            {
                "id": sample.sample_id,
                "panorama": places[sample.image],
                "type": sample.type or "",
                "query": sample.query,
                "choices": sample.choices or [],
                "references": sample.references,
                "prediction": sample.prediction,
                "error": sample.error or "",
                "scores": {metric: sample.scores[metric] for metric in metrics if metric in sample.scores},
            }
            for sample in samples
        ],
    }


def _inert_json(content: Any) -> str:
    """Return JSON that can end no script element and start no comment, whatever its texts hold."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path of keys, value) of a nested mapping."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, "" if value is None else str(value)


def _source(name: str) -> str:
    return files("cora.evaluation.report").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")
