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


def test_every_key_of_a_baseline_is_retired_while_none_can_be_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(BaselineConfig.model_fields) == []
    path = tmp_path / "baseline.yaml"
    path.write_text(
        "experiment_name: a\noutput_dir: runs\nmax_new_tokens: 128\ndata_train_csv: a.csv\ndata_val_csv: null\n"
        "wandb_project: p\nwandb_enabled: false\nmodel: {name: x}\nlora: {r: 16}\ntraining: {fp16: true}\n"
        "data: {image_column: url}\npano_view: {hfov_deg: 45}\nanyres_e2p: {hfov_deg: 45}\n"
        "panoadapt: {rope_type: 3d}\nadam_beta1: 0.9\nnum_workers: 2\npaths: {}\n"
    )
    found = unknown_keys(ConfigManager.load_baseline(path))
    assert len(found) == 17
    assert [key.path for key in found if not key.is_retired] == ["paths"]
    assert f"{path}: retired key model is ignored (retired: this version trains no baselines;" in caplog.text
    with pytest.raises(ConfigError, match=r"panoadapt \(retired: this version trains no baselines"):
        ConfigManager.load_baseline(path, strict=True)
