"""METEOR's table of paraphrases, read once on a machine and kept in the user's cache in a form that is quick to search.

The program loads its table before it starts, and most of its time goes into five million paraphrases of which the
captions contain few. Given those alone it counts the same.
"""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from cora.evaluation.tokenizer import scorer_folder

if TYPE_CHECKING:
    from cora.evaluation.phrases import PhraseTable

__all__ = ["find_paraphrases", "paraphrase_file"]

logger = logging.getLogger(__name__)

# Of what is in the file.
_VERSION = 1


def find_paraphrases() -> PhraseTable | None:
    """Return the table, from the cache where it is there, or None where there is no place to keep it.

    Raises:
        OSError: pycocoevalcap is there without its table.
    """
    from cora.evaluation.phrases import PhraseTable

    source = paraphrase_file()
    path = _cache_folder() / f"paraphrases-{_VERSION}-{_digest(source)}.npz"
    try:
        return PhraseTable.load(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged (%s) and made again", path, error)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = partial.open("wb")
    except OSError as error:
        logger.warning("METEOR loads all of its paraphrases, which takes longer: %s cannot be written: %s", path, error)
        return None
    logger.info("METEOR's paraphrases are read into %s, once on this machine", path)
    try:
        table = PhraseTable.read(source)
        try:
            with stream:
                table.save(stream)
            partial.replace(path)
        except OSError as error:
            logger.warning("%s cannot be written, and is made again by the next run: %s", path, error)
    finally:
        stream.close()
        partial.unlink(missing_ok=True)
    return table


def paraphrase_file() -> Path:
    """Return METEOR's table, compressed, which comes with pycocoevalcap."""
    return scorer_folder() / "meteor" / "data" / "paraphrase-en.gz"


def _cache_folder() -> Path:
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache_home).expanduser() / "cora" / "meteor"


def _digest(path: Path) -> str:
    """Return what a gzip file ends with, the checksum and the length of its content, without reading it."""
    with path.open("rb") as stream:
        stream.seek(-8, os.SEEK_END)
        return stream.read().hex()
