"""Parts of a table for several runs at once: ``--shard 2/4`` is the second of four."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cora.data.table import Row

__all__ = ["Shard", "parse_shard"]


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts, counted from 1."""

    number: int
    count: int

    def of(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows of this part: every `count`-th image, in the order of the table, with all its questions."""
        images: dict[object, int] = {}
        return [row for row in rows if images.setdefault(row.image, len(images)) % self.count == self.number - 1]


def parse_shard(context: click.Context, parameter: click.Parameter, text: str | None) -> Shard | None:
    """Return the shard that an option names."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"'{text}' is not I/N with I from 1 to N, for instance 2/4", context, parameter)
    return Shard(int(match[1]), int(match[2]))
