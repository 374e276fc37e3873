"""METEOR is given the paraphrases that its captions can have in common, and counts as if it had all of them."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from rows import make_corpus

from cora.evaluation import meteor, paraphrases
from cora.evaluation.java import find_java
from cora.evaluation.meteor import meteor_sums
from cora.evaluation.paraphrases import LONGEST, paraphrase_file, write_possible

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


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], list[tuple[str, str]]]:
    """What is kept of `PAIRS` for some captions."""
    table, target = tmp_path / "table.gz", tmp_path / "kept.gz"
    text = "".join(f"0.25\n{phrase}\n{paraphrase}\n" for phrase, paraphrase in PAIRS)
    table.write_bytes(gzip.compress(text.encode()))
    monkeypatch.setattr(paraphrases, "paraphrase_file", lambda: table)

    def keep(captions: list[str]) -> list[tuple[str, str]]:
        assert write_possible(captions, target)
        lines = gzip.decompress(target.read_bytes()).decode().splitlines()
        assert set(lines[::3]) <= {"0.25"}
        return list(zip(lines[1::3], lines[2::3], strict=True))

    return keep


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
@pytest.mark.parametrize("block", [1, 50, 2**22])
def test_what_captions_can_have_in_common_is_kept_in_order(
    kept: Callable[[list[str]], list[tuple[str, str]]],
    captions: list[str],
    expected: list[int],
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paraphrases, "_BLOCK", block)
    assert kept(captions) == [PAIRS[number] for number in expected]


def test_many_captions_take_the_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paraphrases, "MOST_PHRASES", 5)
    assert not write_possible(["a b", "c d"], tmp_path / "kept.gz")
    assert not (tmp_path / "kept.gz").exists()


@pytest.mark.real_meteor
def test_meteor_counts_as_with_its_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gzip.open(paraphrase_file()) as stream:
        lines = stream.read().decode().splitlines()
    phrases = [lines[1::3], lines[2::3]]
    for side in phrases:
        assert max(text.count(" ") for text in side) + 1 == LONGEST
        assert not any(set(".E-") & set(text) for text in side)
    draw = random.Random(0)
    entries = [draw.randrange(len(phrases[0])) for _ in range(2000)]
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

    def caption(side: int) -> str:
        words = " ".join(phrases[side][entry] for entry in pair).split()
        # Mostly plain words, and what the program takes apart, joins or replaces.
        return "".join(word + (draw.choice(marks) if draw.random() < 0.3 else " ") for word in words)

    answers, references = [], []
    for number in range(0, len(entries), 4):
        pair = entries[number : number + 4]
        answers.append(caption(0))
        references.append([caption(1), caption(1).upper()][: draw.choice([1, 2])])
    java = find_java()
    corpus = make_corpus(answers, references)
    ours = meteor_sums(corpus, java).tolist()
    monkeypatch.setattr(meteor, "write_possible", lambda *_: False)
    assert ours == meteor_sums(corpus, java).tolist()
    # It finds some: without any it counts otherwise.
    monkeypatch.setattr(meteor, "write_possible", write_nothing)
    assert ours != meteor_sums(corpus, java).tolist()


def write_nothing(_: object, target: Path) -> bool:
    target.write_bytes(gzip.compress(b""))
    return True
