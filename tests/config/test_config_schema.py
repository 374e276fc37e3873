"""Defaults, ranges and unknown keys of the configuration schemas."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cora.config.schema import BaselineConfig, CORAConfig, StageConfig
from cora.config.sections import unknown_keys


def test_stage_defaults_differ_by_stage():
    stages = CORAConfig().training.stage_configs
    assert list(stages) == ["vision", "resampler", "finetune"]
    assert [stage.lr for stage in stages.values()] == [5e-4, 1e-4, 5e-5]
    assert [stage.epochs for stage in stages.values()] == [5, 1, 1]
    assert [stage.batch_size for stage in stages.values()] == [8, 1, 1]
    assert [stage.accumulate_grad_batches for stage in stages.values()] == [1, 4, 4]
    assert [stage.vicreg_loss_weight for stage in stages.values()] == [1.0, 0.1, 0.0]
    assert [stage.vision_trainable_blocks for stage in stages.values()] == [2, 0, 0]


def test_given_stage_keys_keep_the_other_defaults_of_that_stage():
    config = CORAConfig.model_validate({"training": {"stage_configs": {"vision": {"lr": 0.1}, "finetune": None}}})
    vision = config.training.stage_configs["vision"]
    assert (vision.lr, vision.epochs, vision.vision_trainable_blocks) == (0.1, 5, 2)
    assert config.training.stage_configs["finetune"].lr == 5e-5


def test_a_stage_config_instance_is_taken_as_it_is():
    config = CORAConfig.model_validate({"training": {"stage_configs": {"vision": StageConfig(lr=0.25)}}})
    assert config.training.stage_configs["vision"].epochs == StageConfig().epochs == 3


@pytest.mark.parametrize(("given", "read"), [(-1, "all"), ("all", "all"), (0, 0), (3, 3)])
def test_vision_trainable_blocks_spellings(given, read):
    assert StageConfig.model_validate({"vision_trainable_blocks": given}).vision_trainable_blocks == read


@pytest.mark.parametrize(("given", "read"), [(224, (224, 224)), ([96, 128], (96, 128)), (None, None)])
def test_image_size_is_height_then_width(given, read):
    config = CORAConfig.model_validate({"image_processing": {"image_size": given}})
    assert config.image_processing.image_size == read


@pytest.mark.parametrize(("given", "read"), [("auto", None), (32, 32), (None, None)])
def test_max_text_length_spellings(given, read):
    assert StageConfig.model_validate({"max_text_length": given}).max_text_length == read


def test_loss_keys_have_the_names_and_defaults_of_older_files():
    older = {
        "vision_loss_type": "contrastive",
        "vicreg_mode": "pairwise",
        "vicreg_similarity_weight": 25.0,
        "vicreg_variance_weight": 25.0,
        "vicreg_covariance_weight": 1.0,
        "vicreg_overlap_ratio": None,
        "densecl_temperature": 0.07,
        "contrastive_tau_overlap": 0.07,
        "contrastive_tau_tile": 0.2,
        "contrastive_tile_weight": 0.1,
        "global_local_loss_weight": 0.0,
        "global_local_loss_type": "cosine",
    }
    config = CORAConfig.model_validate({"training": {"stage_configs": {"vision": older}}})
    assert unknown_keys(config) == []
    assert StageConfig.model_validate(older) == StageConfig()
    assert StageConfig().overlap_matching == "rotation"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vision_loss_type", "vicregg"),
        ("overlap_matching", "rows"),
        ("vicreg_mode", "pair"),
        ("vicreg_overlap_ratio", 0.0),
        ("densecl_temperature", 0.0),
        ("contrastive_tau_overlap", -1.0),
        ("contrastive_tile_weight", -0.1),
        ("global_local_loss_type", "dot"),
    ],
)
def test_loss_keys_that_mean_nothing_are_refused(key, value):
    with pytest.raises(ValidationError, match=key):
        StageConfig.model_validate({key: value})


@pytest.mark.parametrize("key", ["train", "train_csv", "csv_train"])
def test_older_table_keys_are_read(key):
    assert CORAConfig.model_validate({"data": {key: "a.csv"}}).data.csv_train == "a.csv"


def test_stage_tables_prefer_the_stage_over_the_shared_ones():
    config = CORAConfig.model_validate(
        {
            "data": {"csv_train": "shared.csv", "csv_val": "val.csv"},
            "training": {"stage_configs": {"vision": {"data": {"csv_train": ["a.csv", "b.csv"]}}}},
        }
    )
    assert config.stage_tables("vision") == (["a.csv", "b.csv"], ["val.csv"])
    assert config.stage_tables("finetune") == (["shared.csv"], ["val.csv"])


def test_empty_section_is_all_defaults():
    assert CORAConfig.model_validate({"lora": None, "models": None}) == CORAConfig()


@pytest.mark.parametrize(
    "document",
    [
        {"training": {"stages": []}},
        {"training": {"stages": ["vision", "vision"]}},
        {"training": {"stage_configs": {"visoin": {}}}},
        {"training": {"precision": "8-mixed"}},
        {"training": {"devices": 0}},
        {"training": {"stage_configs": {"vision": {"batch_size": 0}}}},
        {"training": {"stage_configs": {"vision": {"vision_trainable_blocks": -2}}}},
        {"image_processing": {"overlap_ratio": 1.0}},
        {"image_processing": {"image_size": [224]}},
        {"image_processing": {"image_size": 0}},
        {"image_processing": {"pitch_min_deg": 10, "pitch_max_deg": -10}},
        {"image_processing": {"stitching_mode": "blend"}},
        {"models": {"vicreg_projector_dropout": 0.6}},
        {"lora": {"target_modules": []}},
        {"generation": {"temperature": -0.1}},
        {"data": {"train": "a.csv", "csv_train": "b.csv"}},
    ],
)
def test_values_out_of_range_are_refused(document):
    with pytest.raises(ValidationError):
        CORAConfig.model_validate(document)


def test_unknown_keys_are_found_at_every_depth_with_a_hint():
    config = CORAConfig.model_validate(
        {
            "models": {"fov_deg": 60, "resampler_config": {"any": "thing"}},
            "training": {"stratgy": "ddp", "stage_configs": {"vision": {"epoch": 1, "data": {"csv_trian": "a"}}}},
            "wandb": {"project": "x"},
        }
    )
    assert {key.path: key.hint for key in unknown_keys(config)} == {
        "wandb": "",
        "models.fov_deg": " (did you mean 'image_processing.fov_deg'?)",
        "training.stratgy": " (did you mean 'strategy'?)",
        "training.stage_configs.vision.epoch": " (did you mean 'epochs'?)",
        "training.stage_configs.vision.data.csv_trian": " (did you mean 'csv_train'?)",
    }


def test_known_leaves_unknown_keys_out_and_is_plain():
    config = CORAConfig.model_validate({"odd": 1, "training": {"odd": 2, "stage_configs": {"vision": {"odd": 3}}}})
    assert config.known() == CORAConfig().known()
    assert isinstance(CORAConfig.model_validate({"image_processing": {"image_size": 8}}).known(), dict)
    assert unknown_keys(CORAConfig.model_validate(config.known())) == []


def test_every_key_is_documented():
    missing = []
    for schema in (CORAConfig, BaselineConfig):
        for section in _sections(schema):
            missing += [
                f"{section.__name__}.{name}"
                for name, field in section.model_fields.items()
                if not field.description and not _section_of(field.annotation)
            ]
    assert missing == []


def _section_of(annotation):
    """Return the section class inside an annotation such as ``X | None``, or None."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if hasattr(candidate, "model_fields"):
            return candidate
    return None


def _sections(schema):
    yield schema
    for field in schema.model_fields.values():
        inner = _section_of(field.annotation)
        if inner is not None:
            yield from _sections(inner)
