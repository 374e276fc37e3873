"""The files SPICE needs besides its program: Stanford CoreNLP 3.6.0 and its English models, some 400 MB.

They are fetched when somebody asks for it (``cora metrics download``), checked against the checksum that stands beside
them at their source, and from then on against the one they were installed with.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from cora.errors import BackendUnavailable, ConfigError, DataError
from cora.files import write_file

__all__ = ["HOW_TO_GET_SPICE", "SOURCE", "SPICE_FILES", "download_spice_files", "find_spice_files", "spice_folder"]

logger = logging.getLogger(__name__)

SPICE_FILES = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
SOURCE = "https://repo1.maven.org/maven2/edu/stanford/nlp/stanford-corenlp/3.6.0"
HOW_TO_GET_SPICE = "cora metrics download (or put both jars into a folder and name it by CORA_SPICE_LIB)"
SUMS_NAME = "SHA256SUMS"
# Strongest first. SHA-1 is enough against damage, which is what this guards against: the connection is trusted.
_CHECKSUMS = ("sha512", "sha256", "sha1")
_CHUNK_BYTES = 2**20
_TIMEOUT_SECONDS = 60


def spice_folder() -> Path:
    """Return ``CORA_SPICE_LIB``, or the folder in the user's cache."""
    if named := os.environ.get("CORA_SPICE_LIB"):
        return Path(named).expanduser()
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache_home).expanduser() / "cora" / "spice"


def find_spice_files() -> list[Path]:
    """Return the paths of `SPICE_FILES`, unchanged since they were installed.

    Raises:
        BackendUnavailable: One is not there, or is not what was downloaded.
    """
    folder = spice_folder()
    if missing := [name for name in SPICE_FILES if not (folder / name).is_file()]:
        raise BackendUnavailable(f"SPICE needs {' and '.join(missing)} in {folder}")
    installed = _read_sums(folder)
    for name in SPICE_FILES:
        path = folder / name
        if name in installed and _digest_of_file(path, path.stat().st_mtime_ns) != installed[name]:
            raise BackendUnavailable(f"{path} is not the file that {SUMS_NAME} beside it speaks of")
    return [folder / name for name in SPICE_FILES]


def download_spice_files(
    source: str = SOURCE, folder: Path | None = None, *, on_bytes: Callable[[str, int, int | None], None] | None = None
) -> Path:
    """Fetch `SPICE_FILES` and return the folder they are in; what is there and unchanged is not fetched again.

    Args:
        source: An http(s) address or a folder that holds the files, each with its checksum in ``NAME.sha512``,
            ``NAME.sha256`` or ``NAME.sha1``.
        folder: Made if missing; `spice_folder` by default.
        on_bytes: Called with (name, bytes so far, bytes in all or None).

    Raises:
        DataError: A file or its checksum cannot be had, or they do not agree; nothing is left behind then.
    """
    folder = spice_folder() if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror or error}") from error
    installed = _read_sums(folder)
    for name in SPICE_FILES:
        path = folder / name
        if path.is_file() and name in installed and _sha256(path) == installed[name]:
            logger.info("%s is there", path)
            continue
        kind, expected = _published_checksum(source, name)
        installed[name] = _fetch(source, path, kind, expected, on_bytes)
        write_file(folder / SUMS_NAME, "".join(f"{digest}  {each}\n" for each, digest in sorted(installed.items())))
    return folder


def _fetch(
    source: str, path: Path, kind: str, expected: str, on_bytes: Callable[[str, int, int | None], None] | None
) -> str:
    """Write a file whose checksum is `expected`, and return its SHA-256."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    published, sha256, done = hashlib.new(kind), hashlib.sha256(), 0
    try:
        with _opened(source, path.name) as (stream, size), partial.open("wb") as written:
            while chunk := stream.read(_CHUNK_BYTES):
                written.write(chunk)
                published.update(chunk)
                sha256.update(chunk)
                done += len(chunk)
                if on_bytes is not None:
                    on_bytes(path.name, done, size)
            written.flush()
            os.fsync(written.fileno())
        if published.hexdigest() != expected:
            raise DataError(
                f"{path.name} from {source} is damaged: its {kind} is {published.hexdigest()}, not {expected}"
            )
        partial.replace(path)
    except (OSError, HTTPException) as error:
        raise DataError(f"{path.name} cannot be fetched from {source}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return sha256.hexdigest()


def _published_checksum(source: str, name: str) -> tuple[str, str]:
    """Return (kind, digest) of a file as it is written beside it."""
    why = ""
    for kind in _CHECKSUMS:
        try:
            with _opened(source, f"{name}.{kind}") as (stream, _):
                words = stream.read(1000).decode("ascii", "replace").split()
        except OSError as error:
            why = str(error)
            continue
        length = hashlib.new(kind).digest_size * 2
        if words and re.fullmatch(rf"[0-9a-fA-F]{{{length}}}", words[0]):
            return kind, words[0].lower()
        raise DataError(f"{name}.{kind} from {source} is no checksum")
    raise DataError(f"{source} has no checksum of {name} ({', '.join(_CHECKSUMS)}): {why}")


@contextmanager
def _opened(source: str, name: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """Open a file of the source, with its size where that is known."""
    if re.match(r"https?://", source):
        address = f"{source.rstrip('/')}/{name}"
        with urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS) as response:  # only http(s), see above
            length = response.headers.get("Content-Length")
            yield response, int(length) if length and length.isdigit() else None
    elif "://" in source:
        raise ConfigError(f"the source is an http(s) address or a folder, not {source}")
    else:
        path = Path(source).expanduser() / name
        with path.open("rb") as stream:
            yield stream, path.stat().st_size


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS_NAME
    if not path.is_file():
        return {}
    lines = (line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {words[1].lstrip("*"): words[0].lower() for words in lines if len(words) == 2}


@cache
def _digest_of_file(path: Path, modified_ns: int) -> str:
    del modified_ns
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
