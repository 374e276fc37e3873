"""What a judge left in the folder of a run: shown in its report and compared by cora collect, for its answers only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_judge import grade, leave_verdicts
from report_run import HOSTILE, make_run, page_data

from cora.cli.collect import main
from cora.errors import DataError
from cora.evaluation.comparison import collect
from cora.evaluation.comparison_tables import as_latex, as_markdown
from cora.evaluation.judge.protocols import POINTWISE
from cora.evaluation.judge.results import name_judges, read_judged
from cora.evaluation.report import write_report
from cora.evaluation.samples import SAMPLES_NAME

GRADES = {"a red ball": grade(4, fluency=5), "red": grade(2), HOSTILE: grade(1)}
NAME = "judge:org/judge:1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("judged"))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run without a judge, to be changed: three answers about each of two panoramas, none about a third."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def change_answer(run: Path, number: int, answer: str) -> None:
    """Give a sample of a run another answer, as a later evaluation would."""
    lines = [json.loads(line) for line in (run / SAMPLES_NAME).read_text().splitlines()]
    lines[number]["prediction"] = answer
    (run / SAMPLES_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_verdicts_count_where_the_panoramas_were_moved(run: Path) -> None:
    leave_verdicts(run / "predictions.csv", GRADES.get)
    lines = [json.loads(line) for line in (run / SAMPLES_NAME).read_text().splitlines()]
    for line in lines:
        line["image"] = str(Path("/elsewhere") / Path(line["image"]).name)
    (run / SAMPLES_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (judged,) = read_judged(run)
    assert (judged.num_verdicts, judged.num_foreign) == (6, 0)


def test_the_report_says_what_the_judge_said(run: Path) -> None:
    folder = leave_verdicts(run / "predictions.csv", GRADES.get)
    text = " ".join(write_report(run).read_text().split())
    document = json.loads((folder / "judge.json").read_text())
    (judged,) = read_judged(run)
    assert judged.score == document["weighted_score"]
    assert judged.criteria == document["criteria"]
    assert '<h3>Judge org/judge:1</h3> <p class="note">6 of 6 answers have a verdict.' in text
    value, (low, high) = document["weighted_score"]["value"], document["weighted_score"]["interval"]
    assert f'<td class="number">{value:.1f}</td> <td class="number">{low:.1f} – {high:.1f}</td>' in text
    assert '<th scope="row">fluency</th> <td class="number">2.67</td>' in text
    assert 'role="alert"' not in text
    data = page_data(run / "report.html")
    assert data["metrics"][-1] == {"name": NAME, "label": "Judge org/judge:1"}
    assert [sample["scores"].get(NAME) for sample in data["samples"]] == [82, 40, 20, 82, 40, 20, None, None, None]
    assert f'<th scope="row">{NAME}.prompt_sha256</th><td class="value">{POINTWISE.digest}</td>' in text
    assert f'<th scope="row">{NAME}.answered_as</th><td class="value">[&#39;served-model&#39;]</td>' in text


def test_a_run_without_a_judge_says_nothing_of_one(run: Path) -> None:
    text = write_report(run).read_text()
    assert "<h3>Judge" not in text
    assert not [metric for metric in page_data(run / "report.html")["metrics"] if "judge" in metric["name"]]


def test_verdicts_on_other_answers_are_left_out_and_that_is_said(run: Path) -> None:
    leave_verdicts(run / "predictions.csv", lambda answer: GRADES[answer] if answer != HOSTILE else None)
    change_answer(run, 0, "a blue ball")
    text = write_report(run).read_text()
    assert "3 of 6 answers have a verdict; no verdict: garbage 2." in text
    assert "1 of the 6 judged answers are not those of this run; their verdicts are left out" in text
    data = page_data(run / "report.html")
    assert [sample["scores"].get(NAME) for sample in data["samples"][:4]] == [None, 40, None, 82]
    (judged,) = read_judged(run)
    assert judged.score["value"] == pytest.approx((40 + 82 + 40) / 3)
    for number in range(1, 6):
        change_answer(run, number, "another")
    (judged,) = read_judged(run)
    assert (judged.score["value"], set(judged.criteria.values()), judged.num_foreign) == (None, {None}, 6)
    assert "0 of 6 answers have a verdict" in write_report(run).read_text()


def test_a_blank_answer_is_none(run: Path) -> None:
    leave_verdicts(run / "predictions.csv", GRADES.get)
    change_answer(run, 6, " ")
    (judged,) = read_judged(run)
    assert (judged.coverage, judged.warning) == ("6 of 6 answers have a verdict", "")


def test_other_references_are_another_question(run: Path) -> None:
    leave_verdicts(run / "predictions.csv", GRADES.get)
    lines = [json.loads(line) for line in (run / SAMPLES_NAME).read_text().splitlines()]
    lines[0]["references"].append("a sphere")
    (run / SAMPLES_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (judged,) = read_judged(run)
    assert (judged.num_verdicts, judged.num_foreign) == (5, 1)


@pytest.mark.parametrize("answer", ["=1+1", "'=x", 'a\r\nb, "c"', "nul \0", "lone \ud800", " \n x "])
def test_texts_that_a_file_changes_are_recognised(run: Path, answer: str) -> None:
    from cora.evaluation.predictions import read_predictions, write_predictions

    change_answer(run, 0, answer)
    predictions = read_predictions(run / "predictions.csv")
    write_predictions(run / "predictions.csv", predictions.rows, [answer, *predictions.answers[1:]])
    leave_verdicts(run / "predictions.csv", lambda _: grade(3))
    (judged,) = read_judged(run)
    assert (judged.num_verdicts, judged.num_foreign) == (6, 0)


def test_judges_that_differ_have_columns_of_their_own(run: Path) -> None:
    predictions = run / "predictions.csv"
    leave_verdicts(predictions, lambda _: grade(5), model="other")
    for name in ("a-part", "z-part"):
        leave_verdicts(predictions, GRADES.get, limit=2).rename(run / name)
    leave_verdicts(predictions, GRADES.get)  # the same judge as that of the parts
    judges = read_judged(run)
    assert sorted(name_judges(judges).values()) == [NAME, "judge:other"]
    assert [each.num_verdicts for each in judges] == [6, 6]
    leave_verdicts(predictions, GRADES.get, temperature=1.0).rename(run / "warm")
    names = sorted(name_judges(read_judged(run)).values())
    assert [name.rpartition("/")[0] for name in names[:2]] == [NAME, NAME]
    assert len({*names}) == 3


def test_pairwise_results_are_no_scores_and_damaged_ones_are_named(run: Path) -> None:
    folder = leave_verdicts(run / "predictions.csv", GRADES.get)
    path, table = folder / "judge.json", folder / "judge.csv"
    whole, rows = path.read_text(), table.read_text()
    path.write_text(whole.replace('"pointwise"', '"pairwise"'))
    assert read_judged(run) == []
    for damaged in ("{", "[]", '{"mode": "pointwise"}', whole.replace('"prompt_sha256"', '"prompt"')):
        path.write_text(damaged)
        with pytest.raises(DataError, match=r"judge\.json: not the results of a judge"):
            write_report(run)
    path.write_text(whole)
    table.write_text(rows.replace(",82,", ",nan,", 1))
    with pytest.raises(
        DataError, match=r"judge\.csv, line 2: not a row of a judge: ValueError: grades are out of range"
    ):
        write_report(run)
    table.write_text(rows.replace("fluency", "fluent", 1))
    with pytest.raises(DataError, match=r"judge\.csv, line 2: not a row of a judge: KeyError: 'fluency'"):
        write_report(run)
    table.unlink()
    with pytest.raises(DataError, match=r"judge\.csv: no such file"):
        write_report(run)


def test_runs_are_compared_by_their_judge(run: Path, tmp_path: Path) -> None:
    better, without = (Path(shutil.copytree(run, tmp_path / name)) for name in ("better", "without"))
    leave_verdicts(run / "predictions.csv", lambda _: grade(2))
    leave_verdicts(better / "predictions.csv", lambda answer: grade(5) if answer == "red" else grade(3))
    comparison = collect([run, better, without])
    assert comparison.metrics[-1] == NAME
    old, new, none = (line.cells[NAME] for line in comparison.lines)
    assert (old.score, none.score, none.difference) == (pytest.approx(40), None, None)
    assert (new.score, new.is_best) == (pytest.approx((60 + 60 + 100) / 3), True)
    difference = new.difference
    assert difference is not None
    # Both panoramas gained the same, so every draw of them did.
    assert difference.value == difference.low == difference.high == pytest.approx(100 / 3)
    assert "| Judge org/judge:1 |" in as_markdown(comparison)
    assert comparison.remarks == []


def test_what_a_judge_has_not_judged_is_said_beside_the_comparison(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    leave_verdicts(run / "predictions.csv", GRADES.get)
    leave_verdicts(other / "predictions.csv", GRADES.get, limit=4)
    change_answer(other, 0, "something else")
    remark = (
        "other, Judge org/judge:1: 3 of 6 answers have a verdict; 1 of the 4 judged answers are not those of this run; "
        "their verdicts are left out (cora judge judges what is new)."
    )
    comparison = collect([run, other])
    assert comparison.remarks == [remark]
    assert as_markdown(comparison).endswith(f"\n{remark}\n")
    assert f"% {remark}" in as_latex(comparison)
    assert collect([run, other], metrics=["exact_match"]).remarks == []
    result = CliRunner().invoke(main, [str(run), str(other), "--metric", NAME, "--json"])
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["remarks"] == [remark]
    assert [row["metric"] for row in document["scores"]] == [NAME, NAME]


def test_another_way_to_judge_is_no_comparison(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    leave_verdicts(run / "predictions.csv", GRADES.get)
    leave_verdicts(other / "predictions.csv", GRADES.get, temperature=1.0)
    comparison = collect([run, other])
    judges = [metric for metric in comparison.metrics if metric.startswith(NAME)]
    assert len(judges) == 2
    for metric in judges:
        assert [line.cells[metric].score is None for line in comparison.lines].count(True) == 1
        assert comparison.lines[1].cells[metric].difference is None
