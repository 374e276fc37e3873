"""docs/judging.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cora.config.schema import EndpointConfig, JudgeConfig
from cora.evaluation.judge.protocols import CRITERIA

PAGE = (Path(__file__).resolve().parents[2] / "docs/judging.md").read_text(encoding="utf-8")


def table_rows(heading: str) -> dict[str, str]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n#")[0]
    return {match[1]: match[2] for match in re.finditer(r"^\| (.+?) \| (.+?) \|$", section, flags=re.MULTILINE)}


def test_weights() -> None:
    rows = table_rows("What the judge is asked")
    for criterion in CRITERIA:
        assert float(rows[criterion.name.replace("_", " ")]) == criterion.weight


def test_settings_and_their_defaults() -> None:
    found = {}
    for names, default in table_rows("Settings").items():
        for name in re.findall(r"`((?:endpoint|judge)\.\w+)`", names):
            found[name] = json.loads(re.split(r"[; ]", default)[0])
    sections = {"endpoint": EndpointConfig(), "judge": JudgeConfig()}
    assert found == {
        f"{section}.{name}": value for section, config in sections.items() for name, value in config.known().items()
    }
