"""Every convention on the page is pinned by a test, and every such test is on the page."""

from __future__ import annotations

import re
from pathlib import Path

NAME = re.compile(r"\b(test_convention_\w+)")


def test_the_page_and_the_tests_agree(repository: Path) -> None:
    listed = set(NAME.findall((repository / "docs" / "conventions.md").read_text()))
    defined = {
        name
        for path in (repository / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_convention_\w+)", path.read_text(), flags=re.MULTILINE)
    }
    assert listed - defined == set(), "docs/conventions.md names tests that do not exist"
    assert defined - listed == set(), "these conventions are missing in docs/conventions.md"
