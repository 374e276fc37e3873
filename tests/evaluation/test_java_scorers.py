"""METEOR and SPICE are driven so that they cannot hang, shift a caption or take another metric along.

SPICE's parser cannot be shipped: a program in its place reads and writes the files that the real one reads and writes.
"""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rows import make_corpus, make_row
from test_metrics import fake_java

from cora.cli.main import main
from cora.errors import BackendUnavailable, DataError
from cora.evaluation import meteor, metrics
from cora.evaluation.java import JavaFailure, find_java
from cora.evaluation.meteor import meteor_from_sums, meteor_sums, score_meteor
from cora.evaluation.metrics import CORAEvaluator
from cora.evaluation.scoring import score_answers
from cora.evaluation.spice import score_spice
from cora.evaluation.spice_files import SPICE_FILES, download_spice_files, find_spice_files

CORPUS = make_corpus(["a red ball", "", "a house"], [["a red ball", "the red ball here"], ["a dog"], ["a cat"]])

# Writes the score 0.25 times the number of references for each caption that -out wants scores of.
SPICE = """
while [ $# -gt 0 ]; do [ "$1" = -out ] && out=$2; shift; done
python3 - "$out" <<'END'
import json, sys
found = [{"image_id": each["image_id"], "scores": {"All": {"f": 0.25 * len(each["refs"])}}}
         for each in json.load(open("captions.json"))]
json.dump(found[FROM:], open(sys.argv[1], "w"))
END
"""


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    for number, name in enumerate(SPICE_FILES):
        content = f"jar {number}".encode() * 1000
        (folder / name).write_bytes(content)
        (folder / f"{name}.sha1").write_text(hashlib.sha1(content, usedforsecurity=False).hexdigest())
    return folder


@pytest.fixture
def installed(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "with a space" / "lib"
    monkeypatch.setenv("CORA_SPICE_LIB", str(folder))
    return download_spice_files(str(mirror))


@pytest.mark.real_meteor
@pytest.mark.abuse(22)
def test_no_caption_puts_meteor_out_of_step(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = ["a ||| b", "x\ny\u2028z", "", "\U0001f436 caf\u00e9"]
    plain = ["a red ball lies in the grass", "a small dog"]
    references = [
        ["a b"],
        ["x y z", "q"],
        ["c"],
        ["caf\u00e9"],
        ["a red ball in the grass", "red grass"],
        ["one dog", "a small dog"],
    ]
    java = find_java()
    # The last one again: equal pairs go to the program once.
    corpus = make_corpus([*hostile, *plain, plain[1]], [*references, references[5]])
    sums = meteor_sums(corpus, java)
    scores = meteor_from_sums(sums)
    assert len(scores) == 7
    assert scores[6] == scores[5]
    assert (scores[2], scores[5]) == (0.0, 1.0)
    assert scores[1] == pytest.approx(1.0)
    assert 0.3 < scores[4] < 1.0
    # In several runs, each with its own number of references at most.
    monkeypatch.setattr(meteor, "_WORDS", len(corpus.words) // 2)
    monkeypatch.setattr(meteor, "_WORDS_WRITTEN", 1)
    assert meteor_sums(corpus, java).tolist() == sums.tolist()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'Out of memory' >&2; exit 3", "ended with code 3: Out of memory"),
        ("exec sleep 60", "did not finish within 1 s"),
        ("echo 1 2", "3 captions with 1 lines"),
        ("for i in 1 2 3; do echo 0,5; done", "none of its counts"),
    ],
)
@pytest.mark.abuse(21)
def test_a_meteor_that_crashes_hangs_or_miscounts(
    tmp_path: Path, script: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cora.evaluation.meteor.write_possible", lambda *_: False)
    with pytest.raises(JavaFailure, match=why):
        score_meteor(CORPUS, find_java(fake_java(tmp_path, script)), 1)


@pytest.mark.real_meteor
def test_a_failing_meteor_costs_no_other_metric_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise JavaFailure("the JVM died")

    monkeypatch.setitem(metrics._PROGRAMS, "meteor", broken)
    rows = [make_row("a red ball")]
    scores = score_answers(rows, ["a red ball"])
    assert (scores.metrics["meteor"].status, scores.metrics["meteor"].why) == ("failed", "the JVM died")
    assert scores.metrics["bleu_4"].status == scores.metrics["rouge_l"].status == "ok"
    assert "meteor" in scores.incomplete


def test_spice_reads_and_writes_files(installed: Path, tmp_path: Path) -> None:
    assert installed.name == "lib"
    corpus, samples = score_spice(CORPUS, find_java(fake_java(tmp_path, SPICE.replace("FROM", "0"))), 60)
    assert samples == [0.5, 0.25, 0.25]
    assert corpus == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (SPICE.replace("FROM", "1"), "3 captions with 2 scores"),
        ("echo 'no models' >&2; exit 1", "no models"),
        ("exec sleep 60", "did not finish within 1 s"),
        ("true", "SPICE left no scores"),
    ],
)
@pytest.mark.usefixtures("installed")
def test_a_spice_that_crashes_hangs_or_miscounts(tmp_path: Path, script: str, why: str) -> None:
    with pytest.raises(JavaFailure, match=why):
        score_spice(CORPUS, find_java(fake_java(tmp_path, script)), 1 if "sleep" in script else 60)


def test_spice_counts_as_missing_only_where_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORA_SPICE_LIB", str(tmp_path))
    rows = [make_row("a red ball")]
    scores = score_answers(rows, ["a red ball"])
    assert scores.metrics["spice"].status == "unavailable"
    assert f"in {tmp_path}" in scores.metrics["spice"].why
    assert scores.incomplete == []
    asked = score_answers(rows, ["a red ball"], evaluator=CORAEvaluator(metrics=["spice", "bleu_1"]))
    assert (asked.incomplete, asked.metrics["bleu_1"].status) == (["spice"], "ok")


def test_files_are_fetched_from_a_server_once(mirror: Path, tmp_path: Path) -> None:
    with served(mirror) as (address, asked):
        for _ in range(2):
            result = CliRunner().invoke(main, ["metrics", "download", "--from", address, "--to", str(tmp_path / "lib")])
            assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'lib'}\n")
    assert sorted(asked.count(f"/{name}") for name in SPICE_FILES) == [1, 1]
    assert (tmp_path / "lib" / SPICE_FILES[0]).read_bytes() == (mirror / SPICE_FILES[0]).read_bytes()


def test_a_damaged_file_is_refused_and_nothing_is_left(mirror: Path, tmp_path: Path) -> None:
    (mirror / SPICE_FILES[1]).write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"models\.jar from .* is damaged: its sha1 is"):
        download_spice_files(str(mirror), tmp_path / "lib")
    assert sorted(path.name for path in (tmp_path / "lib").iterdir()) == ["SHA256SUMS", SPICE_FILES[0]]
    (mirror / f"{SPICE_FILES[1]}.sha1").unlink()
    with pytest.raises(DataError, match=r"has no checksum of stanford-corenlp-3\.6\.0-models\.jar"):
        download_spice_files(str(mirror), tmp_path / "lib")


def test_a_file_that_changed_later_is_not_used(installed: Path) -> None:
    assert [path.name for path in find_spice_files()] == list(SPICE_FILES)
    (installed / SPICE_FILES[0]).write_bytes(b"something else")
    with pytest.raises(BackendUnavailable, match="is not the file that SHA256SUMS"):
        find_spice_files()


class served:
    """A server of a folder on this machine; gives its address and the list of what it is asked for."""

    def __init__(self, folder: Path) -> None:
        asked: list[str] = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def log_message(self, *_: object) -> None:
                asked.append(self.path)

            def send_error(self, code: int, *_: object, **__: object) -> None:
                self.send_response_only(code)
                self.end_headers()

        self.asked = asked
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> tuple[str, list[str]]:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}", self.asked

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
