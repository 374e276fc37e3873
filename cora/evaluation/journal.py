"""The journal of a run: every answer is on disk before the next one is asked for.

``predictions.jsonl`` holds one answer per line. An answer is found again only under its key, a digest of everything
that made it, so another model, picture, question or setting never gets it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from cora.errors import DataError
from cora.inference.protocol import GenerationResult, GenerationSettings, Generator

__all__ = ["JOURNAL_NAME", "Journal", "JournalEntry", "answer_key", "image_digest"]

logger = logging.getLogger(__name__)

JOURNAL_NAME = "predictions.jsonl"
LOCK_NAME = "predictions.lock"
_CHUNK_BYTES = 2**20


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


def image_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or ``unreadable``."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return "unreadable"
    return digest.hexdigest()


def answer_key(generator: Generator, settings: GenerationSettings, *, image: str, query: str) -> str:
    """Return the SHA-256 of everything an answer depends on.

    Args:
        generator: Model, processor, back end, device and precision.
        settings: Generation settings.
        image: Digest of the panorama's bytes.
        query: The question.
    """
    parts = {
        "model": generator.model_digest,
        "processor": generator.processor_digest,
        "backend": generator.name,
        "settings": asdict(settings),
        "image": image,
        "query": query,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Journal:
    """The journal of an output folder, held by one run at a time; a context manager.

    Args:
        folder: Made if missing.

    Raises:
        DataError: Another run holds the folder, or the journal cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_NAME
        self._lock: BinaryIO | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
            # Unbuffered, so that a failed write leaves nothing behind to be written later.
            self._stream = self.path.open("ab", buffering=0)
            self._entries = self._read()
        except OSError as error:
            self._release()
            raise DataError(f"{self.path} cannot be opened: {error.strerror or error}") from error

    def __len__(self) -> int:
        return len(self._entries)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()
        self._release()

    def find(self, key: str) -> JournalEntry | None:
        """Return the answer under a key; failures are no answers and are tried again."""
        return self._entries.get(key)

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Write entries and return when they are on disk.

        Raises:
            DataError: They cannot be written; what was there before stays intact.
        """
        content = b"".join(json.dumps(asdict(entry), ensure_ascii=True).encode() + b"\n" for entry in entries)
        end = self.path.stat().st_size
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            os.truncate(self.path, end)
            raise DataError(
                f"{self.path} cannot be written: {error.strerror or error}; "
                f"{len(self._entries)} answers are kept and will be used again"
            ) from error
        self._entries.update((entry.key, entry) for entry in entries if entry.error is None)

    def _read(self) -> dict[str, JournalEntry]:
        """Return the answers on disk by key, after cutting off a last line that was never finished."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            logger.warning("%s: the last line is torn (a run was killed); it will be asked again", self.path)
            os.truncate(self.path, whole)
        entries = {}
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                entry = _parse(line)
            except (ValueError, TypeError):
                logger.warning("%s, line %d: not readable; it will be asked again", self.path, number)
                continue
            if entry.error is None:
                entries[entry.key] = entry
        return entries

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()  # which also gives the lock back


def _parse(line: bytes) -> JournalEntry:
    """Return the entry of a line; ValueError or TypeError where it is none."""
    values: dict[str, Any] = json.loads(line)
    entry = JournalEntry(**values)
    if not isinstance(entry.key, str) or isinstance(entry.prediction, str) == isinstance(entry.error, str):
        raise ValueError("an entry has a key, and either a prediction or an error")
    return entry


def _lock(folder: Path) -> BinaryIO:
    """Return the locked lock file of a folder; the system gives the lock back however the run ends."""
    stream = (folder / LOCK_NAME).open("a+b")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        holder = stream.read(200).decode("utf-8", "replace").strip()
        stream.close()
        raise DataError(
            f"{folder}: another run is writing here ({holder}); wait for it or name another folder"
        ) from None
    stream.truncate(0)
    stream.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    stream.flush()
    return stream
