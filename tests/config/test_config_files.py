"""Every configuration we ship loads strictly and says how it is used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cora.config.manager import ConfigManager, load_as
from cora.config.serve import ServeConfig
from cora.model.resampler.module import RESAMPLERS
from cora.processors.strategies import STRATEGIES
from cora.training.losses.view_losses import OVERLAP_LOSSES

# What it is, in a sentence, and more if need be; then a line for each of four, of which a command may take several.
HEADER = re.compile(
    r"# [A-Z].*\.\n(#.*\n)*?#\n"
    r"# Command:  \S.*\n(#           \S.*\n)*"
    r"# Device:   \S.*\n# Time:     (?P<time>\S.*)\n# Score:    (?P<score>\S.*)\n(?!#)"
)
CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_loads_strictly(path):
    if path.parent.name == "serve":
        load_as(ServeConfig, path, strict=True)
    else:
        ConfigManager.load(path, strict=True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_header_says_command_device_time_and_score(path):
    header = HEADER.match(path.read_text(encoding="utf-8"))
    assert header is not None, f"{path.name}: its comment is not what it is, a blank line, and a line for each"
    for value in (header["time"], header["score"]):
        assert "not " not in value or re.match("not measured(;|$)", value), f"{path.name}: {value}"


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
