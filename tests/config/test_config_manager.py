"""Loading, overriding, reporting and saving configurations."""

from __future__ import annotations

import logging
import os

import pytest

from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig
from cora.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write_config(text):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_config


def test_exponents_without_a_dot_are_numbers(write):
    config = ConfigManager.load(write("models: {resampler_config: {dropout: 1e-3, name: 1e}}"))
    assert config.models.resampler_config == {"dropout": 1e-3, "name": "1e"}


def test_overrides_are_typed_and_the_last_wins(write):
    path = write("training: {seed: 1}\nlora:\n")
    config = ConfigManager.load(
        path,
        overrides=[
            "training.seed=7",
            "training.seed=8",
            "lora.rank=4",
            "image_processing.image_size=[48, 64]",
            "training.stage_configs.vision.lr=1e-2",
            "training.system_msg=null",
            "models.resampler_config.bidirectional=true",
            "experiment.name=a=b",
        ],
    )
    assert config.training.seed == 8
    assert config.lora.rank == 4
    assert config.image_processing.image_size == (48, 64)
    assert config.training.stage_configs["vision"].lr == 1e-2
    assert config.training.system_msg is None
    assert config.models.resampler_config == {"bidirectional": True}
    assert config.experiment.name == "a=b"


def test_overrides_leave_the_document_alone():
    document = {"training": {"seed": 1}}
    assert ConfigManager.apply_overrides(document, ["training.seed=2"]) == {"training": {"seed": 2}}
    assert document == {"training": {"seed": 1}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.seed", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("training..seed=3", "expected KEY=VALUE"),
        ("training.seed.x=3", "training.seed is a value, not a section"),
        ("training.seed=[1", "not a YAML value"),
        ("training.seed=x", "training.seed: Input should be a valid integer"),
        ("training.sed=3", "--set training.sed: unknown key (did you mean 'seed'?)"),
        ("optimizer.lr=3", "--set optimizer: unknown key"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_it(write, override, message):
    with pytest.raises(ConfigError) as caught:
        ConfigManager.load(write("training: {seed: 1}"), overrides=[override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {seed: x}", "training.seed: Input should be a valid integer"),
        ("training: {seed: 1, seed: 2}", "key 'seed' is given twice"),
        ("training: [", "line 1, column"),
        ("- a", "expected a mapping at the top level, found a list"),
        ("training: {stages: [visoin]}", "unknown stage 'visoin' (did you mean 'vision'?)"),
        ("training: {stage_configs: {vision: {epochs: 0}}}", "training.stage_configs.vision.epochs: "),
        ("lora: 3", "lora: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_file_and_key(write, text, message):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        ConfigManager.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_undecodable_file(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        ConfigManager.load(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml: cannot be read"):
        ConfigManager.load(tmp_path / "binary.yaml")


def test_empty_file_is_all_defaults(write):
    assert ConfigManager.load(write("")) == CORAConfig()


def test_unknown_keys_warn_and_are_errors_when_strict(write, caplog):
    path = write("training: {stratgy: ddp}\nmodels: {vision_nam: x}")
    with caplog.at_level(logging.WARNING):
        ConfigManager.load(path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: unknown key models.vision_nam is ignored (did you mean 'vision_name'?)",
        f"{path}: unknown key training.stratgy is ignored (did you mean 'strategy'?)",
    ]
    with pytest.raises(ConfigError, match=r"unknown keys models\.vision_nam \(did you mean 'vision_name'\?\), train"):
        ConfigManager.load(path, strict=True)


def test_saved_configuration_loads_strictly_and_equally(write, tmp_path):
    config = ConfigManager.load(write("training: {seed: 3, odd: 1}\nimage_processing: {image_size: [8, 16]}"))
    saved = tmp_path / "new" / "folder" / "config.yaml"
    ConfigManager.save(config, saved)
    again = ConfigManager.load(saved, strict=True)
    assert again.known() == config.known()
    assert again.image_processing.image_size == (8, 16)
    assert os.listdir(saved.parent) == ["config.yaml"]


def test_auto_detect_config_looks_beside_and_one_up(tmp_path):
    run = tmp_path / "run"
    export, stage = run / "export", run / "vision"
    export.mkdir(parents=True)
    stage.mkdir()
    checkpoint = stage / "last.ckpt"
    checkpoint.touch()
    assert ConfigManager.auto_detect_config(export) is None
    (run / "config.yaml").touch()
    assert ConfigManager.auto_detect_config(export) == (run / "config.yaml").resolve()
    assert ConfigManager.auto_detect_config(checkpoint) == (run / "config.yaml").resolve()
    (stage / "config.yml").touch()
    assert ConfigManager.auto_detect_config(checkpoint) == stage / "config.yml"
