"""Tables become rows: column fallbacks, references, paths, and one clear line for everything that can be wrong."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from cora.data.table import Row, merge_rows, read_rows
from cora.errors import BackendUnavailable, DataError


def write(folder: Path, text: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_reads_the_plain_form(tmp_path: Path) -> None:
    path = write(tmp_path, "url,query,annotation\nimages/a.jpg,What is ahead?,A tower.\n")
    assert read_rows(path) == [
        Row("0", tmp_path / "images/a.jpg", "What is ahead?", ("A tower.",), None, None, None, 2)
    ]


@pytest.mark.parametrize("image", ["url", "image", "image_path", "file_name"])
@pytest.mark.parametrize("query", ["query", "instruction", "original_query", "prompt"])
@pytest.mark.parametrize("answer", ["annotation", "response", "reference", "answer"])
def test_column_fallbacks(tmp_path: Path, image: str, query: str, answer: str) -> None:
    (row,) = read_rows(write(tmp_path, f"{answer},{image},{query}\nyes,a.jpg,Is it day?\n"))
    assert (row.image.name, row.query, row.references) == ("a.jpg", "Is it day?", ("yes",))


def test_the_earlier_name_wins(tmp_path: Path) -> None:
    (row,) = read_rows(write(tmp_path, "image,url,prompt,query,answer,annotation\nb.jpg,a.jpg,p,q,red,It is red.\n"))
    assert (row.image.name, row.query, row.references, row.answer) == ("a.jpg", "q", ("It is red.",), "red")


@pytest.mark.abuse(11)
def test_byte_order_mark_crlf_and_quoted_line_breaks(tmp_path: Path) -> None:
    text = '\ufeffURL, Query ,annotation\r\na.jpg,"Where,\r\nexactly?","say ""left"""\r\n\r\nb.jpg,q,r\r\n'
    first, second = read_rows(write(tmp_path, text))
    assert (first.query, first.references, first.line) == ("Where,\r\nexactly?", ('say "left"',), 2)
    assert (second.line, second.sample_id) == (5, "1")


@pytest.mark.abuse(11)
def test_a_megabyte_cell_is_read_and_the_limit_of_the_process_kept(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    (row,) = read_rows(write(tmp_path, "url,query,annotation\na.jpg,q," + "x" * 2**20 + "\n"))
    assert len(row.references[0]) == 2**20
    assert csv.field_size_limit() == before


def test_optional_columns(tmp_path: Path) -> None:
    text = (
        "url,query,annotation,answer,type,sample_id,choices\n"
        'a.jpg,q1,r,red,colour,s1,red | blue\na.jpg,q2,r,,,,"[""one, two"", ""three""]"\n'
    )
    first, second = read_rows(write(tmp_path, text))
    assert (first.answer, first.type, first.sample_id, first.choices) == ("red", "colour", "s1", ("red", "blue"))
    assert (second.answer, second.type, second.sample_id) == (None, None, "1")
    assert second.choices == ("one, two", "three")


def test_rows_of_one_question_merge_only_where_asked(tmp_path: Path) -> None:
    path = write(tmp_path, "url,query,annotation\na.jpg,q,one\nb.jpg,q,other\n./a.jpg,q,two\na.jpg,p,three\n")
    assert [row.references for row in read_rows(path)] == [("one",), ("other",), ("two",), ("three",)]
    merged = read_rows(path, merge_references=True)
    assert [row.references for row in merged] == [("one", "two"), ("other",), ("three",)]
    assert [row.sample_id for row in merged] == ["0", "1", "3"]
    assert merge_rows(merged) == merged


def test_merging_refuses_rows_that_disagree(tmp_path: Path) -> None:
    path = write(tmp_path, "url,query,answer\na.jpg,q,red\na.jpg,q,blue\n")
    with pytest.raises(DataError, match=r"line 3: the same image and query as line 2, but answer is 'blue'"):
        read_rows(path, merge_references=True)


def test_paths_start_at_the_table_or_the_image_root(tmp_path: Path) -> None:
    path = write(tmp_path, "url,query,annotation\nsub/../a.jpg,q,r\n")
    assert read_rows(path)[0].image == tmp_path / "a.jpg"
    (tmp_path / "pictures").mkdir()
    assert read_rows(path, image_root=tmp_path / "pictures")[0].image == tmp_path / "pictures" / "a.jpg"


@pytest.mark.parametrize("image", ["../a.jpg", "/etc/a.jpg", "../pictures_of_others/a.jpg"])
@pytest.mark.abuse(11)
def test_nothing_outside_the_image_root(tmp_path: Path, image: str) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    path = write(tmp_path, f"url,query,annotation\n{image},q,r\n")
    with pytest.raises(DataError, match=r"rows\.csv, line 2: image .* lies outside the image root"):
        read_rows(path, image_root=root)


def test_absolute_path_inside_the_image_root_is_fine(tmp_path: Path) -> None:
    path = write(tmp_path, f"url,query,annotation\n{tmp_path}/x/a.jpg,q,r\n")
    assert read_rows(path, image_root=tmp_path)[0].image == tmp_path / "x/a.jpg"


@pytest.mark.parametrize(
    "image", ["http://x.org/a.jpg", "HTTPS://x.org/a.jpg", "data:image/png;base64,AA", "file:///a"]
)
def test_addresses_are_refused(tmp_path: Path, image: str) -> None:
    with pytest.raises(DataError, match=r"rows\.csv, line 2: the image is an address .*download it first"):
        read_rows(write(tmp_path, f'url,query,annotation\n"{image}",q,r\n'))


FAULTS = {
    "empty": (b"", "the file is empty"),
    "blank lines": (b"\n\n", "the file is empty"),
    "header only": (b"url,query,annotation\n", "no rows below the header"),
    "ragged": (b"url,query,annotation\na.jpg,q,r\nb.jpg,q\n", r"line 3: 2 cells where the header has 3"),
    "unquoted comma": (b"url,query,annotation\na.jpg,q,one, two\n", r"line 2: 4 cells where the header has 3"),
    "ragged after a long cell": (b'url,query,annotation\na.jpg,q,"r\n\nr"\nb.jpg,q\n', r"line 5: 2 cells"),
    "NUL": (b"url,query,annotation\na.jpg,q\0,r\n", r"line 2: contains a NUL byte"),
    "open quote": (b'url,query,annotation\na.jpg,q,"r\n', r"line 2: not valid CSV"),
    "text after quote": (b'url,query,annotation\na.jpg,"q"x,r\n', r"line 2: not valid CSV"),
    "repeated column": (b"url,query,Query,annotation\na,b,c,d\n", "column 'query' appears 2 times"),
    "no image column": (
        b"imge_path,query,annotation\na,b,c\n",
        r"no image column; .*found imge_path, query, annotation",
    ),
    "nearest name": (b"url,querry,annotation\na,b,c\n", r"no question column; .*did you mean 'query'"),
    "no answer column": (b"url,query\na,b\n", r"no answer column; expected one of annotation"),
    "semicolons": (b"url;query;annotation\na;b;c\n", r"must be separated by commas"),
    "no question": (b"url,query,annotation\na.jpg, ,r\n", r"line 2: column 'query' is empty"),
    "no image": (b"url,query,annotation\n,q,r\n", r"line 2: column 'url' is empty"),
    "no answer": (b"url,query,annotation\na.jpg,q,\n", r"line 2: column 'annotation' is empty"),
    "id taken": (b"url,query,annotation,sample_id\na,q,r,1\nb,q,r,1\n", r"line 3: sample_id '1' is taken by line 2"),
    "bad choices": (b'url,query,annotation,choices\na,q,r,"[1,"\n', r"line 2: column 'choices' is not a JSON list"),
    "latin-1": ("url,query,annotation\na.jpg,q,café\n".encode("latin-1"), r"line 2: not UTF-8 at byte 32 \(0xe9\)"),
    "cp949": ("url,query,annotation\na.jpg,q,한국\n".encode("cp949"), r"it may be cp949: iconv -f cp949"),
    "utf-16": ("url,query,annotation\na.jpg,q,r\n".encode("utf-16"), r"not UTF-8 at byte 0 .*it may be utf-16"),
}


@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.abuse(11)
def test_faults_name_the_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "none.csv")
    with pytest.raises(DataError, match="not a file"):
        read_rows(tmp_path)
    with pytest.raises(DataError, match=r"unknown table format '\.json' \(did you mean '\.jsonl'\?\)"):
        read_rows(write(tmp_path, "{}", "rows.json"))
    with pytest.raises(DataError, match="no such folder"):
        read_rows(write(tmp_path, "url,query,annotation\na,q,r\n"), image_root=tmp_path / "none")


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        {"image": "a.jpg", "prompt": "q", "response": ["one", "two"], "choices": ["x", "y"], "sample_id": 7},
        {"image": "b.jpg", "prompt": "q", "response": "three", "answer": 3},
    ]
    path = write(tmp_path, "\n\n".join(json.dumps(line) for line in lines), "rows.jsonl")
    first, second = read_rows(path)
    assert (first.references, first.choices, first.sample_id) == (("one", "two"), ("x", "y"), "7")
    assert (second.references, second.answer, second.line) == (("three",), "3", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "a"', r"line 1: not valid JSON"),
        ("[1]", r"line 1: expected a JSON object, found list"),
        ('{"image":"a","query":"q","response":"r"}\n{"image":"a","query":"q"}', r"line 2: column 'response' is empty"),
        ('{"image":{"bytes":"x"},"query":"q","response":"r"}', r"line 1: column 'image' is empty or not a text"),
    ],
)
def test_json_lines_faults(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(write(tmp_path, text, "rows.jsonl"))


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(BackendUnavailable, match="pip install pyarrow"):
        read_rows(write(tmp_path, "x", "rows.parquet"))


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"url": ["a.jpg"], "query": ["q"], "annotation": [["one", "two"]]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    (row,) = read_rows(tmp_path / "rows.parquet")
    assert (row.query, row.references) == ("q", ("one", "two"))
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_rows(write(tmp_path, "x", "broken.parquet"))
