"""Rows of a test table, written shortly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cora.data.table import Row


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
