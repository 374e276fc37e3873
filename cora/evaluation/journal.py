"""The journal of a run: every answer is on disk before the next one is asked for.

``predictions.jsonl`` holds one answer per line. An answer is found again only under its key, a digest of everything
that made it, so another model, picture, question or setting never gets it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cora.errors import DataError
from cora.evaluation.journal_file import JournalFile
from cora.files import remove_unfinished
from cora.inference.protocol import GenerationResult, GenerationSettings, Generator

__all__ = ["JOURNAL_NAME", "Journal", "JournalEntry", "answer_key", "image_digest"]

JOURNAL_NAME = "predictions.jsonl"
LOCK_NAME = "predictions.lock"

_SETTINGS = tuple(each.name for each in fields(GenerationSettings))


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One line: an answer under its key, with what a reader wants to know about it."""

    key: str
    sample_id: str
    image: str
    query: str
    prediction: str | None
    num_tokens: int
    finish_reason: str
    error: str | None

    @classmethod
    def of(cls, key: str, *, sample_id: str, image: str, query: str, result: GenerationResult) -> JournalEntry:
        """Return the entry of a result."""
        return cls(key, sample_id, image, query, result.text, len(result.token_ids), result.finish_reason, result.error)

    @classmethod
    def parse(cls, values: dict[str, Any]) -> JournalEntry:
        """Return the entry with the values of a line; ValueError or TypeError where they are none."""
        entry = cls(**values)
        if not isinstance(entry.key, str) or isinstance(entry.prediction, str) == isinstance(entry.error, str):
            raise ValueError("an entry has a key, and either a prediction or an error")
        return entry

    def lookup_keys(self) -> Iterable[str]:
        """Return its key; failures are no answers and are tried again."""
        return (self.key,) if self.error is None else ()


class Journal(JournalFile[JournalEntry]):
    """The journal of an output folder, held by one run at a time; a context manager.

    Args:
        folder: Made if missing.

    Raises:
        DataError: Another run holds the folder, or the journal cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / JOURNAL_NAME, JournalEntry, writer="run", kept="answers", lock_name=LOCK_NAME)
        try:
            remove_unfinished(folder)
        except OSError as error:
            self.close()
            raise DataError(f"{folder} cannot be cleared: {error.strerror or error}") from error


def image_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or its name where they cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return f"unreadable {path}"


def answer_key(generator: Generator, settings: GenerationSettings, *, image: str, query: str) -> str:
    """Return the SHA-256 of everything an answer depends on.

    Args:
        generator: Model, processor, back end, device and precision.
        settings: Generation settings.
        image: Digest of the panorama's bytes.
        query: The question.
    """
    # Greedy answers depend neither on the seed nor on the mass that is sampled from.
    ignored = () if settings.temperature > 0 else ("seed", "top_p")
    parts = {
        "model": generator.model_digest,
        "processor": generator.processor_digest,
        "backend": generator.name,
        "settings": {name: getattr(settings, name) for name in _SETTINGS if name not in ignored},
        "image": image,
        "query": query,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
