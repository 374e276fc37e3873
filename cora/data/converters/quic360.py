"""QuIC-360: captions of 360 degree images by query; a CSV with the columns url, query and annotation."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from cora.data.converters.fields import text_field
from cora.data.converters.registry import Converted
from cora.data.records import read_records
from cora.errors import DataError

__all__ = ["quic360"]


def quic360(source: Path) -> Converted:
    """Return the rows of a QuIC-360 table; an image is named as the last part of its address."""
    converted = Converted()
    for line, cells in read_records(source):
        where = f"{source}, line {line}"
        address = text_field(cells, "url", where)
        name = PurePosixPath(unquote(urlsplit(address).path)).name if "://" in address else address
        if not name:
            raise DataError(f"{where}: the address '{address[:80]}' names no file")
        converted.rows.append(
            {
                "url": name,
                "query": text_field(cells, "query", where),
                "annotation": text_field(cells, "annotation", where),
            }
        )
    return converted
