"""`cora-bench captions` scores captions that are all different, and compares its numbers with pycocoevalcap's."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cora.bench import captions


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of paraphrases in the place of METEOR's, which takes seconds to read."""
    folder = tmp_path / "meteor" / "data"
    folder.mkdir(parents=True)
    words = [f"{first}{second} street" for first in "abcdefgh" for second in "ijklmnop"]
    lines = [line for word in [*words, "caf\u00e9", "3 000"] for line in ("0.5", word, f"the {word}")]
    with gzip.open(folder / "paraphrase-en.gz", "wt", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")
    monkeypatch.setattr(captions, "paraphrase_file", lambda: folder / "paraphrase-en.gz")
    monkeypatch.setattr(captions, "_STEP", 1)


@pytest.mark.usefixtures("table")
def test_no_two_captions_are_equal() -> None:
    assert len(captions._phrases()) == 64
    answers, references = captions.make_captions(200)
    assert len({*answers, *references}) == 400
    assert (answers, references) == captions.make_captions(200)
    assert min(len(text.split()) for text in references) >= captions._WORDS
    shared = [len({*a.split()} & {*b.split()}) for a, b in zip(answers, references, strict=True)]
    assert sum(shared) > 2 * len(shared)


@pytest.mark.usefixtures("table")
def test_a_row_has_the_difference_to_the_other_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "make_captions", lambda: (["a red ball", "a dog"], ["a red box", "one dog"]))
    # Without METEOR's program, in whose place the tests have another one.
    monkeypatch.setattr(captions, "_pycocoevalcap", lambda *_: [2 / 3, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    row = captions.run(rounds=1)
    assert tuple(row) == captions.COLUMNS
    assert (row["captions"], row["distinct"], row["vocabulary"]) == (2, 4, 6)
    assert row["largest_difference"] > 0.5
