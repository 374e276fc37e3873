"""The journal of a judge: what every request came to and cost, on disk before the next one is counted.

``judge.jsonl`` holds one request per line, those without a verdict too: they may have cost as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cora.evaluation.journal_file import JournalFile
from cora.evaluation.judge.protocols import Verdict

__all__ = ["JOURNAL_NAME", "CallRecord", "VerdictJournal"]

JOURNAL_NAME = "judge.jsonl"


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One request.

    Attributes:
        judge: Digest of the judge.
        verdicts: Verdict by key of the item.
        failures: (reason, error) by key of an item without one.
        model: Model that answered, as the server says it.
        input_tokens: Tokens of the request; None where nobody said.
        output_tokens: Tokens of the reply.
        num_retries: Tries before this one.
        from_batch: Whether it was part of a batch.
    """

    judge: str
    verdicts: Mapping[str, Verdict]
    failures: Mapping[str, tuple[str, str]]
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    num_retries: int = 0
    from_batch: bool = False

    @classmethod
    def parse(cls, values: dict[str, Any]) -> CallRecord:
        """Return the record with the values of a line; ValueError or TypeError where they are none."""
        record = cls(**values)
        if not isinstance(record.verdicts, dict) or not isinstance(record.failures, dict):
            raise ValueError("a record has verdicts and failures by key")
        return record

    def lookup_keys(self) -> Iterable[str]:
        """Return the keys with a verdict; the others are asked again."""
        return self.verdicts.keys()


class VerdictJournal(JournalFile[CallRecord]):
    """The journal of an output folder, held by one run at a time; a context manager and an iterable of its records.

    Args:
        folder: Made if missing.

    Raises:
        DataError: Another run holds the folder, or the journal cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / JOURNAL_NAME, CallRecord, writer="judge", kept="verdicts")

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """Verdict by key of the item, read from the file when it is asked for."""
        return _Verdicts(self)


class _Verdicts(Mapping[str, Verdict]):
    def __init__(self, journal: VerdictJournal) -> None:
        self._journal = journal

    def __getitem__(self, key: str) -> Verdict:
        record = self._journal.find(key)
        if record is None:
            raise KeyError(key)
        return record.verdicts[key]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._journal.has(key)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key for record in self._journal for key in record.verdicts))

    def __len__(self) -> int:
        return len(self._journal)
