"""What a converter is, which there are, and the table they write."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cora.errors import DataError, RegistryError
from cora.files import write_file
from cora.registry import Registry

__all__ = ["COLUMNS", "CONVERTERS", "UNDOCUMENTED", "Converted", "convert"]

COLUMNS = (
    *("sample_id", "url", "query", "annotation", "answer", "type", "choices", "protocol", "tolerance"),
    *("yaw_equivariant", "target_yaw_deg", "target_pitch_deg"),
)


@dataclass(slots=True)
class Converted:
    """The rows of a data set, and what of it has no place in a table.

    Attributes:
        rows: Cells by name of `COLUMNS`; a cell that is missing is empty.
        left_out: How many questions were left out, by reason.
    """

    rows: list[dict[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


Converter = Callable[[Path], Converted]

CONVERTERS: Registry[Converter] = Registry("data set layout")
CONVERTERS.add("osr-bench", "cora.data.converters.osr_bench:osr_bench")
CONVERTERS.add("panoenv", "cora.data.converters.panoenv:panoenv")
CONVERTERS.add("panovqa", "cora.data.converters.panovqa:panovqa")
CONVERTERS.add("quic360", "cora.data.converters.quic360:quic360")


# Data sets that publish questions in a layout they do not describe; guessing it could give wrong scores.
UNDOCUMENTED = ("360bench", "h-bench", "odi-bench", "omnicot", "panospace-bench")


def convert(name: str, source: str | Path, out: str | Path) -> Converted:
    """Write the table of a published data set to `out` and return its rows.

    Args:
        name: One of `CONVERTERS`.
        source: The data set's own file, or folder where its layout has one file per scene.
        out: A ``.csv``; image paths stay as published, for ``--image-root``.

    Raises:
        RegistryError: There is no such layout, or its data set does not say what it is.
        DataError: The source is malformed (names file and row), holds no question, or the table cannot be written.
    """
    if name in UNDOCUMENTED:
        raise RegistryError(
            f"the layout of the questions of {name} is not documented, so it is not guessed; write a table with the "
            "columns image, query, answer, choices and protocol from them (docs/protocols.md)"
        )
    converter = CONVERTERS.get(name)
    source, out = Path(source), Path(out)
    if out.suffix.lower() != ".csv":
        raise DataError(f"{out}: the table is written as .csv")
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    converted = converter(source)
    if not converted.rows:
        raise DataError(f"{source}: no question for a table; left out: {dict(converted.left_out) or 'nothing'}")
    columns = [column for column in COLUMNS if any(row.get(column) for row in converted.rows)]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.get(column, "") for column in columns] for row in converted.rows)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out.parent} cannot be made: {error.strerror or error}") from error
    write_file(out, stream.getvalue())
    return converted
