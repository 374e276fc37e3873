"""report.html: complete, self-contained, of bounded size, and deaf to what the data tries to make it do."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from report_run import HOSTILE, make_run, page_data

from cora.cli.report import main
from cora.errors import ConfigError, DataError
from cora.evaluation.report import ReportOptions, write_report
from cora.evaluation.report.scores import groups_of, metrics_of
from cora.evaluation.report.totals import Totals
from cora.evaluation.samples import iterate_samples
from cora.geometry.camera import rotation_matrix
from cora.viewer import SCRIPTS, viewer_source

ASSETS = files("cora.evaluation.report") / "assets"
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node on the path")


class Page(HTMLParser):
    """The elements of a page, and the content of its scripts and styles, as a browser splits them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.raw.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report"))


def test_the_page_stands_alone_and_allows_only_its_own_script(run: Path) -> None:
    text = write_report(run).read_text()
    page = Page(text)
    for _, attributes in page.tags:
        assert not {"onclick", "onerror", "onload", "style"} & set(attributes)
        for name in ("src", "href"):
            assert re.match(r"data:|#", attributes.get(name) or "#")
    assert [attributes.get("type") for attributes in page.all("script")] == ["application/json", "module"]
    style, _, script = page.raw
    policy = page.all("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for source in (style, script):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'" in policy
        assert not re.search(r"https?:|@import|url\(|\bfetch\b|XMLHttpRequest|innerHTML|eval\(", source)


def test_texts_of_the_data_are_no_markup(run: Path) -> None:
    text = write_report(run).read_text()
    page = Page(text)
    assert page.all("img") == []
    assert HOSTILE not in text
    assert not set("<>&") & set(page.raw[1])
    assert html.escape(HOSTILE) in text.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    data = page_data(run / "report.html")
    assert data["samples"][2]["query"] == HOSTILE
    assert data["samples"][2]["prediction"] == HOSTILE


def test_every_answer_and_score_is_there(run: Path) -> None:
    text = write_report(run).read_text()
    data = page_data(run / "report.html")
    assert [metric["name"] for metric in data["metrics"]] == ["exact_match", "bleu_4", "meteor", "rouge_l", "cider"]
    assert [sample["panorama"] for sample in data["samples"]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [sample["scores"].get("exact_match") for sample in data["samples"][:6]] == [None, 1, None, None, 0, None]
    assert data["samples"][6]["prediction"] is None
    assert data["samples"][6]["error"] == "no answer <b>today</b>"
    assert data["views"][1]["yaw_deg"] == 90
    assert "6 of 9 questions answered · 3 panoramas" in text
    assert "50.0 %" in text
    assert '<svg class="chart"' in text
    assert "model_sha256" in text
    for panorama in data["panoramas"]:
        for key, width in (("thumbnail", 160), ("viewer", 1024)):
            picture = Image.open(io.BytesIO(base64.b64decode(panorama[key].partition(",")[2])))
            assert (picture.format, picture.size) == ("JPEG", (width, width // 2))
        # The columns of the small picture are those of the panorama.
        red = np.asarray(picture)[256, 100:900, 0]
        np.testing.assert_allclose(red, np.arange(100, 900) / 1024 * 255, atol=4)


def test_types_are_in_the_page_with_what_was_answered_and_the_means_of_it(run: Path) -> None:
    totals = Totals()
    for sample in iterate_samples(run):
        totals.add(sample)
    place = totals.metrics.index("exact_match")
    found = [(name, asked, answered, means[place]) for name, asked, answered, means in totals.means_by_type()]
    assert found == [("what", 3, 2, None), ("colour", 3, 2, 0.5), (HOSTILE, 3, 2, None)]


def test_the_size_is_bounded_and_the_page_says_so(run: Path) -> None:
    large = write_report(run).stat().st_size
    options = ReportOptions(max_pictures=1, viewer_width=256, max_rows=6)
    path = write_report(run, run / "small.html", options=options)
    text = " ".join(path.read_text().split())
    assert path.stat().st_size < large / 2
    assert "The first 6 of 9 questions; the scores above are over all of them." in text
    assert "of them. 1 of 3 panoramas are in this file (at most 1), at most 256 pixels wide." in text
    data = page_data(path)
    assert len(data["samples"]) == 6
    assert data["panoramas"][1]["viewer"] == ""
    assert data["panoramas"][1]["why"] == "not embedded: the report holds the first 1 panoramas"


def test_a_panorama_that_is_gone_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_panoramas=2)
    (tmp_path / "0.jpg").unlink()
    (tmp_path / "failing.jpg").write_bytes(b"no picture")
    write_report(run)
    gone, broken = page_data(run / "report.html")["panoramas"]
    assert "0.jpg" in gone["why"]
    assert broken["why"]
    assert not gone["thumbnail"] + broken["thumbnail"]


def test_intervals_and_further_breakdowns_are_shown_where_the_results_have_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_panoramas=2)
    path = run / "metrics.json"
    document = json.loads(path.read_text())
    document["metrics"]["rouge_l"]["interval"] = [0.125, 0.625]
    document["exact_match_by_subset"] = {"seam": {"accuracy": 0.25, "interval": [0.125, 0.5], "answered": 4}}
    measures = {"extraction_failure_rate": 0.125, "read_by": {"exact": 3}, "mean_error": None}
    document["protocols"] = {"numeric": {"accuracy": 0.5, "correct": 2, "answered": 4, **measures}}
    document["regions"] = {"seam": {"accuracy": 0.75, "items": 8, "correct": 6}}
    document["yaw_consistency"] = {
        "items": 4,
        "left_out": {"open question": 2},
        "accuracy_by_shift": {"0": 0.75, "90": 0.5},
        "worst_case": 0.25,
        "agreement": None,
        "regions": {"pole": {"accuracy": 1.0, "items": 2, "correct": 2}},
    }
    path.write_text(json.dumps(document))
    text = write_report(run).read_text()
    groups = groups_of(document)
    assert [(each.name, each.answered) for each in groups["Accuracy by region of the sphere"]] == [("seam", 8)]
    turns = groups["Accuracy by turn of the panorama"]
    assert [(each.name, each.value, each.correct) for each in turns] == [("0°", 0.75, 3), ("90°", 0.5, 2)]
    assert groups["Accuracy by region of turned panoramas"][0].value == 1
    turned = [(metric.label, metric.value) for metric in metrics_of(document)][-2:]
    assert turned == [("Turned: worst case", 0.25), ("Turned: agreement", None)]
    assert "items 4; left out open question 2" in text
    assert "Accuracy by protocol" in text
    assert "extraction failure rate 0.125; read by exact 3; mean error –" in text
    assert "0.1250 – 0.6250" in text
    assert "Exact match by subset" in text
    assert "12.5 – 50.0 %" in text
    assert text.count('class="whisker"') == 3
    assert [metric.low for metric in metrics_of(document) if metric.name == "rouge_l"] == [0.125]
    assert groups_of(document)["Exact match by subset"][0].answered == 4


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.json: no such file: .* is not the folder of an evaluation"):
        write_report(tmp_path)
    (tmp_path / "metrics.json").write_text('{"metrics": []}')
    with pytest.raises(DataError, match=r"metrics\.json: not the scores of an evaluation"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="pixels wide"):
        ReportOptions(viewer_width=1)


def test_the_command_writes_an_existing_run_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    arguments = [str(run), "--out", str(out), "--max-pictures", "2", "--viewer-width", "128", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1]) == {"report": str(out), "bytes": out.stat().st_size}
    assert sum(bool(panorama["viewer"]) for panorama in page_data(out)["panoramas"]) == 2
    result = CliRunner().invoke(main, [str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


def in_node(script: str, *names: str) -> Any:
    """Return what an expression of JavaScript gives after some of the page's scripts."""
    source = "\n".join(viewer_source(name) if name in SCRIPTS else (ASSETS / name).read_text() for name in names)
    code = f"{source}\nconsole.log(JSON.stringify({script}));"
    done = subprocess.run(["node", "--input-type=module"], input=code, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
@pytest.mark.parametrize("angles", [(0, 0, 0), (90, 0, 0), (0, 40, 0), (-130, -70, 25), (30, 90, -10)])
def test_the_viewer_turns_as_the_geometry_does(angles: tuple[float, float, float]) -> None:
    yaw, pitch, roll = (math.radians(angle) for angle in angles)
    matrix = in_node(f"rotation({yaw}, {pitch}, {roll})", "camera.js")
    np.testing.assert_allclose(matrix, rotation_matrix(yaw, pitch, roll).numpy(), atol=1e-12)


@needs_node
def test_filters_and_sorting() -> None:
    samples = [
        {"id": "10", "panorama": 0, "type": "a", "query": "Red?", "references": ["x"], "prediction": "y", "scores": {}},
        {
            "id": "9",
            "panorama": 1,
            "type": "b",
            "query": "Blue?",
            "references": ["z"],
            "prediction": None,
            "scores": {},
        },
        {
            "id": "2",
            "panorama": 1,
            "type": "a",
            "query": "Green?",
            "references": ["red"],
            "prediction": "red",
            "scores": {"exact_match": 1, "cider": 2.5},
        },
        {
            "id": "1",
            "panorama": 0,
            "type": "a",
            "query": "Green?",
            "references": ["red"],
            "prediction": "blue",
            "scores": {"exact_match": 0, "cider": 10},
        },
    ]
    given = f"{json.dumps(samples)}, [{{name: 'sea.jpg'}}, {{name: 'land.jpg'}}]"

    def select(filters: str) -> list[str]:
        return list(in_node(f"selectSamples({given}, {filters}).map((sample) => sample.id)", "table.js"))

    assert select("{}") == ["10", "9", "2", "1"]
    assert select("{search: ' GREEN red'}") == ["2", "1"]
    assert select("{search: 'land'}") == ["9", "2"]
    assert select("{type: 'a', outcome: 'open'}") == ["10"]
    assert [select(f"{{outcome: '{name}'}}") for name in ("right", "wrong", "unanswered")] == [["2"], ["1"], ["9"]]

    def order(key: str, descending: str = "false") -> list[str]:
        expression = f"sortSamples({json.dumps(samples)}, '{key}', {descending}).map((sample) => sample.id)"
        return list(in_node(expression, "table.js"))

    assert order("id") == ["1", "2", "9", "10"]
    assert order("score:cider", "true") == ["1", "2", "10", "9"]
    assert order("score:cider") == ["2", "1", "10", "9"]
    assert order("prediction", "true") == ["10", "2", "1", "9"]
    assert order("", "true") == ["1", "2", "9", "10"]
