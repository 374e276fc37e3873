"""The journal of a run: every answer is on disk before the next one is asked for.

``predictions.jsonl`` holds one answer per line. An answer is found again only under its key, a digest of everything
that made it, so another model, picture, question or setting never gets it. In memory a journal keeps the place of every
answer in the file and nothing else, about 200 bytes for each.
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
from cora.files import remove_unfinished
from cora.inference.protocol import GenerationResult, GenerationSettings, Generator

__all__ = ["JOURNAL_NAME", "Journal", "JournalEntry", "answer_key", "image_digest"]

logger = logging.getLogger(__name__)

JOURNAL_NAME = "predictions.jsonl"
LOCK_NAME = "predictions.lock"


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
        "settings": {name: value for name, value in asdict(settings).items() if name not in ignored},
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
        self._places: dict[bytes, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
            remove_unfinished(folder)
            # Unbuffered, so that a failed write leaves nothing behind to be written later.
            self._stream = self.path.open("ab", buffering=0)
            self._reader = self.path.open("rb")
            self._end = self._read()
        except OSError as error:
            self._release()
            raise DataError(f"{self.path} cannot be opened: {error.strerror or error}") from error

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()
        self._reader.close()
        self._release()

    def find(self, key: str) -> JournalEntry | None:
        """Return the answer under a key; failures are no answers and are tried again."""
        place = self._places.get(_packed(key))
        if place is None:
            return None
        self._reader.seek(place)
        return _parse(self._reader.readline())

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Write entries and return when they are on disk.

        Raises:
            DataError: They cannot be written; what was there before stays intact.
        """
        lines = [json.dumps(asdict(entry), ensure_ascii=True).encode() + b"\n" for entry in entries]
        rest = memoryview(b"".join(lines))
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            os.truncate(self.path, self._end)
            raise DataError(
                f"{self.path} cannot be written: {error.strerror or error}; "
                f"{len(self)} answers are kept and will be used again"
            ) from error
        for entry, line in zip(entries, lines, strict=True):
            self._note(entry, self._end)
            self._end += len(line)

    def forget(self) -> None:
        """Give back the memory of the places: nothing is found from now on, and the folder stays held."""
        self._places = {}

    def _note(self, entry: JournalEntry, place: int) -> None:
        if entry.error is None:
            self._places[_packed(entry.key)] = place

    def _read(self) -> int:
        """Note the answers on disk and return where they end, after cutting off a last line never finished."""
        place = 0
        for number, line in enumerate(self._reader, start=1):
            if not line.endswith(b"\n"):
                logger.warning("%s: the last line is torn (a run was killed); it will be asked again", self.path)
                os.truncate(self.path, place)
                break
            try:
                self._note(_parse(line), place)
            except (ValueError, TypeError):
                logger.warning("%s, line %d: not readable; it will be asked again", self.path, number)
            place += len(line)
        return place

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()  # which also gives the lock back


def _packed(key: str) -> bytes:
    """Return a key in half the memory; a key is hexadecimal, and any other text is what it is."""
    try:
        return bytes.fromhex(key)
    except ValueError:
        return key.encode()


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
