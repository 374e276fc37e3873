"""METEOR is given the paraphrases that its captions can have in common, and counts as if it had all of them."""

from __future__ import annotations

import errno
import gzip
import logging
import random
from pathlib import Path

import pytest

from cora.evaluation import meteor, paraphrases
from cora.evaluation.java import find_java
from cora.evaluation.meteor import meteor_sums
from cora.evaluation.paraphrases import find_paraphrases
from cora.evaluation.phrases import PhraseTable

PAIRS = [
    ("a lot of", "many"),
    ("big", "large"),
    ("big house", "mansion"),
    ("caf\u00e9", "coffee house"),
    ("do n", "does not"),
    ("kelvin", "k"),
    ("many", "a lot of"),
    ("the us", "america"),
    ("u s", "america"),
    ("well known", "famous"),
]


def write_table(path: Path, pairs: list[tuple[str, str]] = PAIRS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.write("".join(f"0.25\n{phrase}\n{paraphrase}\n" for phrase, paraphrase in pairs))
    return path


def kept(table: PhraseTable, captions: list[str], folder: Path) -> list[tuple[str, str]]:
    count = table.write_possible(captions, folder / "kept.gz")
    lines = gzip.decompress((folder / "kept.gz").read_bytes()).decode().splitlines()
    assert lines[::3] == ["1"] * count
    return list(zip(lines[1::3], lines[2::3], strict=True))


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (["a lot of people", "so many people"], [0, 6]),
        (["a lot", "of many"], []),
        (["a big house", "a large mansion"], [1, 2]),
        (["big house mansion large"], [1, 2]),
        (["big", "", "house mansion"], []),
        (["a coffee house"], [3]),
        (["do n't", "does not"], [4]),
        (["\u212aelvin", "K"], [5]),
        (["the u.s. army", "america"], [7, 8]),
        (["a well-known, and famous one"], [9]),
        (["", "..."], []),
        ([], []),
    ],
)
def test_what_captions_can_have_in_common_is_kept_in_order(
    captions: list[str], expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Parts of a few entries.
    monkeypatch.setattr("cora.evaluation.phrases._BLOCK", 50)
    monkeypatch.setattr("cora.evaluation.phrases._PHRASES", 3)
    monkeypatch.setattr("cora.evaluation.phrases._CAPTIONS", 2)
    table = PhraseTable.read(write_table(tmp_path / "table.gz"))
    assert kept(table, captions, tmp_path) == [PAIRS[number] for number in expected]


def test_a_table_with_other_spaces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other spaces"):
        PhraseTable.read(write_table(tmp_path / "table.gz", [("a  b", "c")]))


def test_the_table_is_kept_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_table(tmp_path / "scorers" / "meteor" / "data" / "paraphrase-en.gz")
    monkeypatch.setattr(paraphrases, "scorer_folder", lambda: tmp_path / "scorers")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    captions = ["a lot of people", "so many people"]
    first = kept(find_paraphrases(), captions, tmp_path)
    (path,) = (tmp_path / "cache" / "cora" / "meteor").iterdir()

    monkeypatch.setattr(PhraseTable, "read", lambda _: pytest.fail("it was read again"))
    assert kept(find_paraphrases(), captions, tmp_path) == first == [PAIRS[0], PAIRS[6]]
    monkeypatch.undo()
    monkeypatch.setattr(paraphrases, "scorer_folder", lambda: tmp_path / "scorers")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    content = path.read_bytes()
    for damaged in (content[:-40], content.replace(b"many", b"mony"), b""):
        path.write_bytes(damaged)
        assert kept(find_paraphrases(), captions, tmp_path) == first
        assert path.read_bytes() == content
    assert caplog.text.count("is damaged") == 3

    # Another table is another file.
    write_table(source, [("a lot of", "many")])
    assert kept(find_paraphrases(), captions, tmp_path) == [PAIRS[0]]
    assert len(list(path.parent.iterdir())) == 2


def test_without_a_place_for_the_cache_the_program_has_its_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_table(tmp_path / "meteor" / "data" / "paraphrase-en.gz")
    monkeypatch.setattr(paraphrases, "scorer_folder", lambda: tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert find_paraphrases() is None
    assert "METEOR loads all of its paraphrases" in caplog.text

    # The disk is full in the middle of it: what was read is good for this run.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PhraseTable, "save", full)
    assert kept(find_paraphrases(), ["many", "a lot of"], tmp_path) == [PAIRS[0], PAIRS[6]]
    assert "No space left on device" in caplog.text
    assert not list((tmp_path / "cache" / "cora" / "meteor").iterdir())


@pytest.mark.real_meteor
def test_meteor_counts_as_with_its_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = find_paraphrases()
    draw = random.Random(0)
    entries = [draw.randrange(len(table.phrases)) for _ in range(2000)]
    texts = {key: text.decode() for key, text in table._texts(table.phrases[entries]).items()}
    texts |= {key: text.decode() for key, text in table._texts(table.paraphrases[entries]).items()}
    marks = [
        " ",
        ".",
        "-",
        " , ",
        "'",
        " ' ",
        "..",
        "/",
        "?",
        " \u2019",
        "\u201c",
        "&quot;",
        "\u00e9",
        "--",
        "1,0",
        " n't ",
    ]

    def caption(side: str) -> str:
        words = " ".join(texts[int(getattr(table, side)[entry])] for entry in pair).split()
        # Mostly plain words, and what the program takes apart, joins or replaces.
        return "".join(word + (draw.choice(marks) if draw.random() < 0.3 else " ") for word in words)

    answers, references = [], []
    for number in range(0, len(entries), 4):
        pair = entries[number : number + 4]
        answers.append(caption("phrases"))
        references.append([caption("paraphrases"), caption("paraphrases").upper()][: draw.choice([1, 2])])
    java = find_java()
    ours = meteor_sums(answers, references, java)
    monkeypatch.setattr(meteor, "find_paraphrases", lambda: None)
    assert ours == meteor_sums(answers, references, java)
    # It finds some: with a table of ten it counts otherwise.
    few = PhraseTable.read(write_table(tmp_path / "table.gz"))
    monkeypatch.setattr(meteor, "find_paraphrases", lambda: few)
    assert ours != meteor_sums(answers, references, java)
