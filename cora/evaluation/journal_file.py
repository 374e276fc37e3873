"""A file of entries, one JSON document per line, each on disk before its writer goes on.

An entry is found again under its keys. In memory there is the place of every key in the file and nothing else, about
200 bytes for each. What an entry says is the concern of whoever writes it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Generic, Protocol, Self, TypeVar

from cora.errors import DataError

__all__ = ["Entry", "JournalFile"]

logger = logging.getLogger(__name__)


class Entry(Protocol):
    """One line of a journal: a dataclass of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Return the entry with the values of a line; ValueError or TypeError where they are none."""
        ...

    def lookup_keys(self) -> Iterable[str]:
        """Return the keys it is found under; none where it is to be tried again."""
        ...


EntryT = TypeVar("EntryT", bound=Entry)


class JournalFile(Generic[EntryT]):
    """A journal, held by one process at a time; a context manager and an iterable of all entries.

    Args:
        path: The file; its folder is made if missing.
        entry_type: What its lines are.
        writer: Who writes there, for messages.
        kept: What it holds under its keys, for messages.
        lock_name: File beside it that is locked and names the holder; None locks the journal itself.

    Raises:
        DataError: Another process holds the journal, or it cannot be opened.
    """

    def __init__(
        self, path: Path, entry_type: type[EntryT], *, writer: str, kept: str, lock_name: str | None = None
    ) -> None:
        self.path = path
        self._entry_type = entry_type
        self._names = [each.name for each in fields(entry_type)]
        self._kept = kept
        self._places: dict[bytes, int] = {}
        self._files = ExitStack()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(lock_name or path.name)
            self._files.enter_context(_locked(lock, writer, is_signed=lock != path))
            # Unbuffered, so that a failed write leaves nothing behind to be written later.
            self._stream = self._files.enter_context(path.open("ab", buffering=0))
            self._reader = self._files.enter_context(path.open("rb"))
            self._end = self._read()
        except OSError as error:
            self.close()
            raise DataError(f"{path} cannot be opened: {error.strerror or error}") from error

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[EntryT]:
        """Yield all entries in the order they were written in, from the file."""
        with self.path.open("rb") as stream:
            for line in stream:
                if (entry := self._parse(line)) is not None:
                    yield entry

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files, which also gives the lock back."""
        self._files.close()

    def has(self, key: str) -> bool:
        """Return whether there is an entry under a key."""
        return _packed(key) in self._places

    def find(self, key: str) -> EntryT | None:
        """Return the last entry under a key."""
        place = self._places.get(_packed(key))
        if place is None:
            return None
        self._reader.seek(place)
        return self._parse(self._reader.readline())

    def forget(self) -> None:
        """Give back the memory of the places: nothing is found from now on, and the journal stays held."""
        self._places = {}

    def append(self, entries: Sequence[EntryT]) -> None:
        """Write entries and return when they are on disk.

        Raises:
            DataError: They cannot be written; what was there before stays intact.
        """
        lines = [self._line(entry) for entry in entries]
        rest = memoryview(b"".join(lines))
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            os.truncate(self.path, self._end)
            raise DataError(
                f"{self.path} cannot be written: {error.strerror or error}; "
                f"{len(self)} {self._kept} are kept and will be used again"
            ) from error
        for entry, line in zip(entries, lines, strict=True):
            self._note(entry, self._end)
            self._end += len(line)

    def _line(self, entry: EntryT) -> bytes:
        # `dataclasses.asdict` would copy every value first. ASCII, for a lone surrogate has no UTF-8.
        values = {name: getattr(entry, name) for name in self._names}
        return json.dumps(values, ensure_ascii=True).encode() + b"\n"

    def _parse(self, line: bytes) -> EntryT | None:
        try:
            return self._entry_type.parse(json.loads(line))
        except (ValueError, TypeError):
            return None

    def _note(self, entry: EntryT, place: int) -> None:
        for key in entry.lookup_keys():
            self._places[_packed(key)] = place

    def _read(self) -> int:
        """Note the entries on disk and return where they end, after cutting off a last line never finished."""
        place = 0
        for number, line in enumerate(self._reader, start=1):
            if not line.endswith(b"\n"):
                logger.warning("%s: the last line is torn (a run was killed); it will be asked again", self.path)
                os.truncate(self.path, place)
                break
            if (entry := self._parse(line)) is not None:
                self._note(entry, place)
            else:
                logger.warning("%s, line %d: not readable; it will be asked again", self.path, number)
            place += len(line)
        return place


def _packed(key: str) -> bytes:
    """Return a key in half the memory; a key is hexadecimal, and any other text is what it is."""
    try:
        return bytes.fromhex(key)
    except ValueError:
        return key.encode()


def _locked(path: Path, writer: str, *, is_signed: bool) -> BinaryIO:
    """Return a locked file, which says by whom where `is_signed`; the lock is free however the process ends."""
    stream = path.open("a+b")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        said = f" ({stream.read(200).decode('utf-8', 'replace').strip()})" if is_signed else ""
        stream.close()
        raise DataError(
            f"{path.parent}: another {writer} is writing here{said}; wait for it or name another folder"
        ) from None
    if is_signed:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        stream.flush()
    return stream
