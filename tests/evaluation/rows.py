"""Rows of a test table and tokenised captions, written shortly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cora.data.table import Row
from cora.evaluation.corpus import Corpus


def make_row(answer: str | None, query: str = "q", **fields: Any) -> Row:
    """Return a row with one short answer; `fields` are those of `Row`."""
    fields = {"references": (answer or "r",), "type": None, "choices": None, "line": 2, **fields}
    return Row(
        sample_id=fields.pop("sample_id", "0"),
        image=fields.pop("image", Path("a.jpg")),
        query=query,
        answer=answer,
        **fields,
    )


def make_corpus(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Corpus:
    """Return the corpus of tokenised answers, one per sample, and their references."""
    return Corpus.of(
        [*answers, *(text for group in references for text in group)], [len(group) for group in references]
    )
