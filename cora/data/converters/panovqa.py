"""PanoVQA: open questions about driving scenes; a JSON list of records with id, image and conversations."""

from __future__ import annotations

from pathlib import Path

from cora.data.converters.fields import read_document, text_field, turns_of
from cora.data.converters.registry import Converted
from cora.errors import DataError

__all__ = ["panovqa"]


def panovqa(source: Path) -> Converted:
    """Return the rows of a ``train.json`` or ``val.json``; the type is what stands before the first ``_`` of an id.

    Lines of the question that only say where the image goes (``<image>``) are taken out: the processor places it.
    """
    records = read_document(source)
    if not isinstance(records, list):
        raise DataError(f"{source}: expected a list of records, found {type(records).__name__}")
    converted = Converted()
    for index, record in enumerate(records):
        where = f"{source}, record {index}"
        name = text_field(record, "id", where)
        asked, answer = turns_of(record, where)
        query = "\n".join(line for line in asked.splitlines() if "<image>" not in line).strip()
        if not query:
            raise DataError(f"{where}: the question is empty without its <image>")
        converted.rows.append(
            {
                "sample_id": name,
                "url": text_field(record, "image", where),
                "query": query,
                "annotation": answer,
                "type": name.split("_")[0],
            }
        )
    return converted
