"""SPICE 1.0 by its own program, on files; the parser's models are not in any package and are never fetched here.

`cora.evaluation.spice_files` knows where they are and how they get there.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cora.evaluation.corpus import Corpus
from cora.evaluation.java import JavaFailure, JavaRuntime
from cora.evaluation.spice_files import find_spice_files
from cora.evaluation.tokenizer import scorer_folder

__all__ = ["score_spice"]

_CLASS = "edu.anu.spice.SpiceScorer"
# Its libraries look into classes of Java itself, which newer Javas must be told to allow; older than 9 know no modules.
_OPENED = ("java.lang", "java.math", "java.util", "java.util.concurrent", "java.net", "java.text")
_HEAP = "-Xmx8G"


def score_spice(corpus: Corpus, java: JavaRuntime, limit: float | None) -> tuple[float, list[float]]:
    """Return SPICE of the corpus (the mean over samples) and of each sample.

    Args:
        corpus: The captions.
        java: What runs the program.
        limit: Time limit in seconds; by default ten minutes and 0.2 s per caption.

    Raises:
        BackendUnavailable: The parser's models are not there.
        JavaFailure: The program crashed, ran out of time, or did not answer every sample once.
    """
    jars = find_spice_files()
    program = scorer_folder() / "spice"
    texts = [{"image_id": key, "test": answer, "refs": gold} for key, (answer, *gold) in enumerate(corpus.texts())]
    seconds = 600 + 0.2 * len(corpus.lengths) if limit is None else limit
    with tempfile.TemporaryDirectory(prefix="cora-spice-") as name:
        folder = Path(name)
        (folder / "captions.json").write_text(json.dumps(texts), encoding="ascii")
        path = [program / "spice-1.0.jar", program / "lib" / "*", *jars]
        # Without -cache: it is what breaks on newer Javas, and two runs on one cache can freeze.
        arguments = ["-cp", ":".join(map(str, path)), _CLASS, "captions.json", "-out", "scores.json"]
        java.run([_HEAP, *_opened(java), *arguments, "-subset", "-silent"], folder=folder, timeout_seconds=seconds)
        samples = _read(folder / "scores.json", range(len(corpus)))
    return sum(samples) / len(samples), samples


def _read(path: Path, keys: Sequence[int]) -> list[float]:
    """Return one score per sample, in order, of the file that the program wrote."""
    try:
        found: list[dict[str, Any]] = json.loads(path.read_bytes())
        scores = {int(each["image_id"]): float(each["scores"]["All"]["f"]) for each in found}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise JavaFailure(f"SPICE left no scores: {type(error).__name__}: {error}") from error
    if len(found) != len(keys) or set(scores) != set(keys):
        raise JavaFailure(f"SPICE answered {len(keys)} captions with {len(found)} scores of {len(scores)} captions")
    if any(not math.isfinite(score) for score in scores.values()):
        raise JavaFailure("SPICE answered a caption with no number")
    return [scores[key] for key in keys]


def _opened(java: JavaRuntime) -> list[str]:
    if java.version.startswith("1."):
        return []
    return [text for package in _OPENED for text in ("--add-opens", f"java.base/{package}=ALL-UNNAMED")]
