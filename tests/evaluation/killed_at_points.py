"""Kills an evaluation at every point where it makes something last: before and after each sync and each rename.

``python killed_at_points.py TABLE FOLDER`` prints for each point what a resumed run made of what was left, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_generator import CHUNK_SIZE, FakeGenerator

from cora.data.table import read_rows
from cora.evaluation.runner import evaluate


def run(table: str, output_dir: Path) -> FakeGenerator:
    generator = FakeGenerator()
    evaluate(generator, read_rows(table), output_dir=output_dir, captions=False, chunk_size=CHUNK_SIZE, progress=False)
    return generator


def killing_at(point: int, function: Callable[..., Any], passed: list[str], name: str) -> Callable[..., Any]:
    """Return a function that kills this process when the given number of points has been passed."""

    def pass_by(place: str) -> None:
        if len(passed) == point:
            os.kill(os.getpid(), signal.SIGKILL)
        passed.append(place)

    def wrapped(*args: Any, **options: Any) -> Any:
        pass_by(f"before {name}")
        result = function(*args, **options)
        pass_by(f"after {name}")
        return result

    return wrapped


def killed(table: str, output_dir: Path, point: int) -> bool:
    """Evaluate in another process; return whether it was killed, and not done before it came to that point."""
    if (child := os.fork()) == 0:
        passed: list[str] = []
        os.fsync = killing_at(point, os.fsync, passed, "sync")
        Path.replace = killing_at(point, Path.replace, passed, "rename")  # type: ignore[method-assign]
        run(table, output_dir)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main() -> None:
    table, folder = sys.argv[1], Path(sys.argv[2])
    whole = folder / "whole"
    run(table, whole)
    point = 0
    while killed(table, output := folder / str(point), point):
        again = run(table, output)
        lines = (output / "predictions.jsonl").read_text().splitlines()
        found = {
            "answers": len(lines),
            "asked_again": again.num_asked,
            "is_equal": (output / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes(),
            "files": sorted(path.name for path in output.iterdir()) == sorted(path.name for path in whole.iterdir()),
        }
        sys.stdout.write(json.dumps(found) + "\n")
        point += 1


if __name__ == "__main__":
    main()
