"""Published layouts become tables that the evaluator reads; malformed sources are named by file and row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cora.cli.main import main
from cora.data.converters.registry import CONVERTERS, UNDOCUMENTED, convert
from cora.data.table import Row, read_rows
from cora.errors import DataError, RegistryError
from cora.evaluation.protocols.registry import check_rows, protocol_name, protocol_of


def rows_of(name: str, source: Path) -> list[Row]:
    out = source.parent / "tables" / "out.csv"
    convert(name, source, out)
    rows = read_rows(out)
    check_rows(rows)
    for row in rows:
        protocol = protocol_of(row)
        # The accepted answer is right by the protocol chosen for it, and an empty one is not.
        if protocol is not None and row.answer is not None:
            assert protocol.judge(row, row.answer).is_right
            assert not protocol.judge(row, "").is_right
    return rows


def write_lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def panoenv_record(question: str, answer: str, method: str) -> dict[str, Any]:
    return {
        "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": f"<Reasoning>It shows.</Reasoning><Answer>{answer}</Answer>"},
        ],
        "image": "Cave/P000/rgb_erp.png",
        "question_type": "multiple_choice",
        "accu_reward_method": method,
        "expected_answer": answer,
    }


def test_panoenv(tmp_path: Path) -> None:
    box = "(boundingbox: [{}, 600, {}, 680])"
    lamp, tree = (f"the {name} {box.format(left, left + 20)}" for name, left in (("lamp", 0), ("tree", 1270)))
    source = write_lines(
        tmp_path / "test.jsonl",
        panoenv_record(f"Is {lamp} nearer than {tree}?", "Yes", "yes_no"),
        panoenv_record(f"Which one is taller, {lamp} or {tree}?", "The tree", "mcq"),
        panoenv_record(f"In which view (front/back/left/right/top/bottom) is {lamp}?", "Back", "mcq"),
        panoenv_record("Which class fits: Rural, Infra, or Urban?", "Infra", "mcq"),
        panoenv_record("Which environment fits better: Cave or CarPark?", "Cave", "mcq"),
        panoenv_record(f"Which one is taller, {lamp} or {lamp}?", "The lamp", "mcq"),
        panoenv_record(f"Which is nearest: pipe A {box.format(0, 9)} or pipe B {box.format(5, 9)}?", "Pipe B", "mcq"),
        panoenv_record("If you chose between Cave and CarPark, which fits?", "CarPark", "mcq"),
        panoenv_record(f"How many views show {tree}?", "2 different views", "counting"),
        panoenv_record(f"How far away is {tree}?", "About 13.1 meters", "distance"),
        panoenv_record(f"Where is {lamp} relative to {tree}?", "The lamp is behind the tree.", "spatial"),
    )
    rows = rows_of("panoenv", source)
    assert [protocol_name(row) for row in rows] == [
        "yes_no",
        *["multiple_choice"] * 4,
        "exact",
        *["multiple_choice"] * 2,
        *["numeric"] * 2,
        None,
    ]
    assert [row.choices for row in rows[1:8] if row.choices] == [
        ("lamp", "tree"),
        ("front", "back", "left", "right", "top", "bottom"),
        ("Rural", "Infra", "Urban"),
        ("Cave", "CarPark"),
        ("pipe A", "pipe B"),
        ("Cave", "CarPark"),
    ]
    assert rows[0].image == tmp_path / "tables/Cave/P000/rgb_erp.png"
    assert [index for index, row in enumerate(rows) if row.is_yaw_equivariant] == [3, 4, 7]
    # Its box is centred on column 1280 of 2560 and row 640 of 1280: straight ahead; the lamp's on the left edge.
    assert rows[8].target_deg == (0.0, 0.0)
    assert rows[2].target_deg == pytest.approx((-178.59, 0.0))
    assert rows[0].target_deg is None
    numeric = protocol_of(rows[9])
    assert numeric is not None
    assert numeric.judge(rows[9], "12.5 m").is_right
    assert not numeric.judge(rows[9], "10 m").is_right


def scene(turns: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {"image_id": "data/Room-1/rgb.png", "pre_prompt": "", "conversation": turns, **fields}


def turn(number: int, question: str, answer: object, skill: str) -> dict[str, Any]:
    return {"turn_id": number, "question": question, "answer": answer, "skills_tested": skill}


def test_osr_bench(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "Room-1").mkdir(parents=True)
    turns = [
        turn(0, "Draw a map.", [[["window"]]], "cognitive_map"),
        turn(1, "How many chairs are here?", "9", "object_counting"),
        turn(2, "From the tv, which of these objects (sofa, door, lamp) is the closest?", "door", "relative_distance"),
        turn(3, "Is the closest lamp to my front or back?", "front-left", "relative_direction"),
        turn(4, "Is the bed to my front?", "The querying object is not found in the picture.", "relative_direction"),
        turn(5, "From the tv, which of these objects (sofa, sofa) is the closest?", "sofa", "relative_distance"),
    ]
    (folder / "Room-1/Room-1_qa_with_negative.json").write_text(json.dumps(scene(turns, pre_prompt="Look.")))
    (folder / "Room-1/Room-1_qa.json").write_text(json.dumps(scene(turns[:2])))
    rows = rows_of("osr-bench", folder)
    assert [(row.sample_id, protocol_name(row)) for row in rows] == [
        ("Room-1-1", "numeric"),
        ("Room-1-2", "multiple_choice"),
        ("Room-1-3", "multiple_choice"),
        ("Room-1-4", "absent_object"),
        ("Room-1-5", "exact"),
    ]
    assert rows[0].query == "Look.\nHow many chairs are here?"
    assert rows[1].choices == ("sofa", "door", "lamp")
    assert {row.is_yaw_equivariant for row in rows} == {True}
    counting = protocol_of(rows[0])
    assert counting is not None
    assert not counting.judge(rows[0], "10").is_right
    assert convert("osr-bench", folder, tmp_path / "o.csv").left_out == {"cognitive map": 1}
    alone = folder / "Room-1/Room-1_qa.json"
    assert len(convert("osr-bench", alone, tmp_path / "o.csv").rows) == 1


def test_panovqa(tmp_path: Path) -> None:
    source = tmp_path / "val.json"
    roles = [{"role": "user", "content": "What is ahead?"}, {"role": "assistant", "content": "A truck, turning."}]
    names = [{"from": "human", "value": "cam: <image>\nIs it safe?"}, {"from": "gpt", "value": "No."}]
    source.write_text(
        json.dumps(
            [
                {"id": "risk_12", "image": "images/a.jpg", "conversations": names},
                {"id": "motion_3", "image": "images/b.jpg", "conversations": roles},
            ]
        )
    )
    rows = rows_of("panovqa", source)
    assert [(row.sample_id, row.type, row.query, row.references) for row in rows] == [
        ("risk_12", "risk", "Is it safe?", ("No.",)),
        ("motion_3", "motion", "What is ahead?", ("A truck, turning.",)),
    ]


def test_quic360(tmp_path: Path) -> None:
    source = tmp_path / "test.csv"
    source.write_text(
        "url,query,annotation\n"
        'https://live.example.com/65535/4321_ab%20c.jpg?x=1,sky,"Blue, with clouds"\n'
        "local/b.jpg,floor,=wood\n"
    )
    rows = rows_of("quic360", source)
    assert [row.image.relative_to(tmp_path / "tables").as_posix() for row in rows] == ["4321_ab c.jpg", "local/b.jpg"]
    assert [row.references for row in rows] == [("Blue, with clouds",), ("=wood",)]


GOOD = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
BAD = {
    "panoenv method": ("panoenv", [{**panoenv_record("q", "a", "guess")}], r"test\.jsonl, line 1: unknown .*'guess'"),
    "panoenv answer": (
        "panoenv",
        [panoenv_record("q", "a", "mcq"), panoenv_record("q", " ", "mcq")],
        r"test\.jsonl, line 2: field 'expected_answer'",
    ),
    "panoenv turns": ("panoenv", [{"conversations": [1]}], r"line 1: field 'conversations' must hold"),
    "panovqa no list": ("panovqa", {"id": 1}, r"test\.json: expected a list of records, found dict"),
    "panovqa no object": ("panovqa", ["x"], r"test\.json, record 0: expected an object, found str"),
    "panovqa no image": ("panovqa", [{"id": "a_1", "conversations": GOOD}], r"record 0: field 'image' is missing"),
    "panovqa no text": (
        "panovqa",
        [{"id": "a_1", "image": "i", "conversations": [{"from": "human", "value": "<image>"}, GOOD[1]]}],
        r"record 0: the question is empty without its <image>",
    ),
    "panovqa turn": (
        "panovqa",
        [{"id": "a_1", "image": "i", "conversations": [GOOD[0], {"from": "gpt"}]}],
        r"record 0, turn 1: field 'value' is missing",
    ),
    "osr no list": ("osr-bench", scene({}), r"test\.json: field 'conversation' is no list"),  # type: ignore[arg-type]
    "osr skill": ("osr-bench", scene([turn(0, "q", "a", "smell")]), r"test\.json, turn 0: unknown skill 'smell'"),
    "osr answer": (
        "osr-bench",
        scene([turn(0, "q", "1", "object_counting"), turn(1, "q", [1], "object_counting")]),
        r"test\.json, turn 1: field 'answer' is missing, empty or not a text",
    ),
    "osr nothing": ("osr-bench", scene([turn(0, "q", [], "cognitive_map")]), r"no question .*'cognitive map': 1"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD.keys())
def test_malformed_sources_are_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    source = tmp_path / ("test.jsonl" if name == "panoenv" else "test.json")
    if name == "panoenv":
        write_lines(source, *content)
    else:
        source.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        convert(name, source, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_what_else_can_be_wrong(tmp_path: Path) -> None:
    source = tmp_path / "test.json"
    for content, message in ((b"{", "not valid JSON"), (b"\xff\xfe", "not valid JSON")):
        source.write_bytes(content)
        with pytest.raises(DataError, match=rf"test\.json: {message}"):
            convert("panovqa", source, tmp_path / "out.csv")
    with pytest.raises(DataError, match=r"no such file or folder"):
        convert("panovqa", tmp_path / "none.json", tmp_path / "out.csv")
    with pytest.raises(DataError, match=r"the table is written as \.csv"):
        convert("panovqa", source, tmp_path / "out.jsonl")
    with pytest.raises(DataError, match=r"no \*_qa_with_negative\.json"):
        convert("osr-bench", tmp_path, tmp_path / "out.csv")
    with pytest.raises(RegistryError, match=r"unknown data set layout 'panoevn' \(did you mean 'panoenv'\?\)"):
        convert("panoevn", source, tmp_path / "out.csv")
    (tmp_path / "q.csv").write_text("url,query,annotation\na.jpg,,b\n")
    with pytest.raises(DataError, match=r"q\.csv, line 2: field 'query' is missing"):
        convert("quic360", tmp_path / "q.csv", tmp_path / "out.csv")


def test_the_command(tmp_path: Path) -> None:
    source = tmp_path / "test.json"
    source.write_text(json.dumps(scene([turn(0, "q", [], "cognitive_map"), turn(1, "q", "1", "object_counting")])))
    runner = CliRunner()
    result = runner.invoke(main, ["convert", "osr-bench", str(source), str(tmp_path / "out.csv")])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'out.csv'}: 1 rows\nleft out: 1, cognitive map\n"
    result = runner.invoke(main, ["convert", "osrbench", str(source), str(tmp_path / "out.csv")])
    assert result.exit_code == 2
    assert "did you mean 'osr-bench'?" in result.stderr


@pytest.mark.parametrize("name", UNDOCUMENTED)
def test_a_layout_that_nobody_describes_is_not_guessed(tmp_path: Path, name: str) -> None:
    source = tmp_path / "questions.json"
    source.write_text("[]")
    result = CliRunner().invoke(main, ["convert", name, str(source), str(tmp_path / "out.csv")])
    assert result.exit_code == 2
    assert f"error: the layout of the questions of {name} is not documented" in result.stderr
    assert "image, query, answer, choices and protocol" in result.stderr
    assert not (tmp_path / "out.csv").exists()


def test_the_help_and_the_docs_name_every_layout() -> None:
    page = (Path(__file__).parents[2] / "docs/protocols.md").read_text(encoding="utf-8")
    help_text = CliRunner().invoke(main, ["convert", "--help"]).stdout
    for name in CONVERTERS.names():
        assert f"| `{name}` |" in page
        assert re.search(rf"\b{name}\b", help_text)
