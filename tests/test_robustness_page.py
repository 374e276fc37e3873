"""Every line of docs/robustness.md is proved by a test that says so, and no test proves a line that is not there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs/robustness.md"


def marked() -> dict[int, list[str]]:
    """Return the tests by the number they are marked with."""
    found: dict[int, list[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.abuse":
                    for number in ast.literal_eval(f"({', '.join(map(ast.unparse, mark.args))},)"):
                        found.setdefault(number, []).append(f"{path.name}::{node.name}")
    return found


def test_every_line_has_its_tests() -> None:
    numbers = {int(number) for number in re.findall(r"^\| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)}
    assert numbers == set(range(1, 30))
    assert marked().keys() == numbers
