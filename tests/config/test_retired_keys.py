"""Files in the research code's layout load, and every key that does nothing is reported with the reason."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cora.config.manager import ConfigManager
from cora.config.schema import BaselineConfig
from cora.config.sections import unknown_keys
from cora.errors import ConfigError

RESEARCH = Path(__file__).parent / "research_default.yaml"
# Weights & Biases is not everywhere.
OTHERS = {"environment"}


def test_the_research_layout_loads_and_its_values_arrive() -> None:
    config = ConfigManager.load(RESEARCH)
    vision = config.training.stage_configs["vision"]
    assert (vision.lr, vision.batch_size, vision.vision_trainable_blocks) == (5e-4, 8, 2)
    assert config.stage_tables("vision") == (["a.csv", "b.csv", "c.csv"], ["val.csv"])
    assert config.stage_tables("finetune") == (["train.csv"], ["val.csv"])
    assert config.image_processing.image_size == (256, 256)
    assert (config.generation.temperature, config.lora.rank) == (0.7, 32)


def test_every_key_of_it_acts_or_is_retired_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = ConfigManager.load(RESEARCH)
    found = unknown_keys(config)
    assert {key.path for key in found if not key.is_retired} <= OTHERS
    assert len([key for key in found if key.is_retired]) > 30
    messages = [record.getMessage() for record in caplog.records]
    assert (
        f"{RESEARCH}: retired key models.stitching_mode is ignored (retired: set image_processing.stitching_mode)"
        in messages
    )
    with pytest.raises(ConfigError, match=r"lora\.save_lora_only \(retired: "):
        ConfigManager.load(RESEARCH, strict=True)


def test_an_override_of_a_retired_key_says_what_to_set_instead(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.touch()
    with pytest.raises(ConfigError, match=r"--set training\.max_epochs: retired key \(retired: set training\.stage"):
        ConfigManager.load(path, overrides=["training.max_epochs=3"])


def test_baselines_have_keys_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = BaselineConfig.model_validate({"paths": {}})
    assert [(key.path, key.is_retired) for key in unknown_keys(config)] == [("paths", False)]
    path = tmp_path / "baseline.yaml"
    path.write_text("training: {fp16: true, adam_beta1: 0.9}\nlora: {bias: none}\npanoadapt: {rope_type: 3d}\n")
    found = unknown_keys(ConfigManager.load_baseline(path))
    expected = {"training.fp16", "training.adam_beta1", "lora.bias", "panoadapt.rope_type"}
    assert {key.path for key in found if key.is_retired} == expected
    assert len(found) == len(expected)
    messages = [record.getMessage() for record in caplog.records]
    assert (
        f"{path}: retired key training.fp16 is ignored (retired: set training.mixed_precision to fp16 or bf16)"
        in messages
    )
    assert any("nothing reads them" in message for message in messages)
