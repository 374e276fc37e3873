"""Every configuration we ship loads strictly and says how it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from cora.config.manager import ConfigManager, load_as
from cora.config.serve import ServeConfig

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_loads_strictly(path):
    if "baseline" in path.parts:
        ConfigManager.load_baseline(path, strict=True)
    elif path.parent.name == "serve":
        load_as(ServeConfig, path, strict=True)
    else:
        ConfigManager.load(path, strict=True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_header_says_command_device_time_and_score(path):
    lines = path.read_text(encoding="utf-8").lower().splitlines()
    header = " ".join(line for line in lines if line.startswith("#"))
    missing = [word for word in ("command", "device", "time", "score") if word not in header]
    assert missing == [], f"{path.name}: the comment at its top does not give {', '.join(missing)}"


def test_there_is_a_default_configuration():
    assert "default.yaml" in [path.name for path in CONFIGS]
