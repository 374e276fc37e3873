"""Every configuration we ship loads strictly and says how it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from cora.config.manager import ConfigManager, load_as
from cora.config.serve import ServeConfig
from cora.model.resampler.module import RESAMPLERS
from cora.processors.strategies import STRATEGIES
from cora.training.losses.view_losses import OVERLAP_LOSSES

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


@pytest.mark.parametrize(
    ("folder", "section", "key", "known"),
    [
        ("resampler", "models", "resampler_type", RESAMPLERS.names()),
        ("strategy", "image_processing", "crop_strategy", STRATEGIES.names()),
    ],
)
def test_there_is_one_for_each_part_of_a_kind(folder, section, key, known):
    loaded = {path.stem: ConfigManager.load(path) for path in CONFIGS if path.parent.name == folder}
    assert {name: getattr(getattr(config, section), key) for name, config in loaded.items()} == {n: n for n in known}


def test_there_is_one_for_each_loss_on_views():
    stages = [
        ConfigManager.load(path).training.stage_configs["vision"] for path in CONFIGS if path.parent.name == "loss"
    ]
    compared = [stage for stage in stages if stage.vicreg_loss_weight > 0]
    assert {stage.vision_loss_type for stage in compared} == set(OVERLAP_LOSSES)
    assert {stage.vicreg_mode for stage in compared if stage.vision_loss_type == "vicreg"} == {"pairwise", "batchwise"}
    assert any(stage.global_local_loss_weight > 0 for stage in stages)


def test_there_is_a_default_configuration():
    assert "default.yaml" in [path.name for path in CONFIGS]
