"""Stages that cut panoramas each in its own way, and what is left of it in the end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from tiny_models import make_panorama
from tiny_runs import make_config, write_workspace

from cora.config.schema import CORAConfig
from cora.errors import ConfigError
from cora.inference.generator import PanoramaGenerator
from cora.model.vlm import PanoramaVLM
from cora.training.dry_run import dry_run
from cora.training.export import export_checkpoint
from cora.training.trainer import CORATrainer

VIEWS = "training.stage_configs.{}.image_processing.{}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("views"))


class SeenShapes(Callback):
    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.shapes.append(tuple(batch["pixel_values"].shape[1:]))


def own_views(workspace: Path, runs_dir: Path) -> CORAConfig:
    return make_config(
        workspace,
        runs_dir,
        VIEWS.format("vision", "image_size=48"),
        VIEWS.format("vision", "overlap_ratio=0.25"),
        VIEWS.format("finetune", "crop_strategy=cubemap"),
        VIEWS.format("finetune", "stitching_mode=concat"),
        "training.stage_configs.resampler.epochs=1",
        "training.stage_configs.finetune.epochs=1",
        "training.cache_features=false",
    )


def test_each_stage_sees_its_own_views_and_the_export_those_of_the_last(workspace: Path, tmp_path: Path) -> None:
    seen = SeenShapes()
    trainer = CORATrainer(own_views(workspace, tmp_path), show_progress=False, callbacks=[seen])
    result = trainer.train()
    # A ring of 90 degrees each: 8 views where half is shared, 6 where a quarter is; 4 faces of a cube.
    assert list(dict.fromkeys(seen.shapes)) == [(6, 3, 48, 48), (8, 3, 32, 32), (4, 3, 32, 32)]
    exported = PanoramaVLM.from_pretrained(result.export_dir).config
    assert exported.image_processing["crop_strategy"] == "cubemap"
    assert exported.projector["stitching"] == "concat"
    generator = PanoramaGenerator.from_checkpoint(result.export_dir, "transformers", device="cpu")
    assert isinstance(generator.answer(make_panorama(0), "What is ahead?"), str)
    generator.close()
    export_checkpoint(result.run_dir / "resampler" / "last.ckpt", tmp_path / "earlier")
    earlier = PanoramaVLM.from_pretrained(tmp_path / "earlier").config
    assert earlier.image_processing["crop_strategy"] == "e2p"
    assert earlier.projector["stitching"] == "stride_views"


def test_a_dry_run_counts_the_tokens_of_each_stage(workspace: Path, tmp_path: Path) -> None:
    reports = dry_run(own_views(workspace, tmp_path))
    assert [report.error for report in reports] == [None] * 3
    assert [report.tokens["views"] for report in reports] == [6, 8, 4]
    assert reports[0].shapes["pixel_values"][-1] == 48


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            VIEWS.format("vision", "stitching_mode=concat"),
            r"vision\.image_processing\.stitching_mode: the vision stage",
        ),
        (VIEWS.format("finetune", "fov_deg=0"), r"stage_configs\.finetune\.image_processing\.fov_deg: Input should be"),
        (VIEWS.format("resampler", "pitch_min_deg=5"), r"resampler\.image_processing: pitch_min_deg 5 is above"),
        (VIEWS.format("resampler", "fov=80"), r"fov: unknown key \(did you mean 'fov_deg'"),
    ],
)
def test_wrong_views_of_a_stage_are_refused(workspace: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(workspace, tmp_path, override)


def test_an_unknown_strategy_of_a_stage_is_refused_before_anything_is_loaded(
    workspace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(ConfigError, match="did you mean 'cubemap'"):
        dry_run(make_config(workspace, tmp_path, VIEWS.format("finetune", "crop_strategy=cubemaps")))
