"""CORATrainer: three stages from tables to an export, reproducibly, and nothing started that cannot end."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_models import make_panorama
from tiny_runs import make_config, write_workspace

from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig
from cora.errors import BackendUnavailable, ConfigError, DataError, ImageError
from cora.inference.generator import PanoramaGenerator
from cora.model.vlm import PanoramaVLM
from cora.processors.images import PanoramaImageProcessor
from cora.training.build import build_model
from cora.training.features import features_key
from cora.training.trainer import CORATrainer, TrainingResult

STAGES = ("vision", "resampler", "finetune")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("training"))


def train(config: CORAConfig) -> TrainingResult:
    return CORATrainer(config, experiment="small", show_progress=False).train()


@pytest.fixture(scope="module")
def finished(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(make_config(workspace, tmp_path_factory.mktemp("runs")))


def losses(run_dir: Path, stage: str, column: str) -> list[float]:
    with (run_dir / stage / "metrics.csv").open(newline="") as stream:
        return [float(row[column]) for row in csv.DictReader(stream) if row.get(column)]


def test_a_run_leaves_what_the_layout_promises(finished: TrainingResult) -> None:
    run = finished.run_dir
    assert run.parent.name == "small"
    for stage in STAGES:
        assert (run / stage / "last.ckpt").is_file()
        assert (run / stage / "curves.png").stat().st_size > 0
        assert list((run / stage).glob("events.out.tfevents.*"))
        names = [path.name for path in (run / stage).glob(f"{stage}-*.ckpt")]
        assert len(names) == 1
        assert re.fullmatch(rf"{stage}-epoch=\d\d-val_loss=\d+\.\d{{4}}\.ckpt", names[0])
    state = json.loads((run / "stage_state.json").read_text())
    assert state["completed_stages"] == list(STAGES)
    assert state["current_stage"] is None
    for stage in STAGES:
        assert (run / state[stage]["checkpoint"]).is_file()
        assert state[stage]["best_metric"] == finished.best_metrics[stage]
    assert finished.best_metrics["finetune"] == pytest.approx(min(losses(run, "finetune", "val_loss")), abs=1e-5)


def test_validations_measure_features_and_draw_the_overlap(finished: TrainingResult) -> None:
    run = finished.run_dir
    for stage, validations in zip(STAGES, (1, 2, 2), strict=True):
        measures = ["adj_cos", "adj_mse", "adj_cka", "overlap_ret_acc", "hungarian_acc", "view_hungarian_acc"]
        for name in [*measures, "eff_rank", "feat_std", "spread"]:
            assert len(losses(run, stage, f"latent/{name}")) == validations
            assert len(losses(run, stage, f"vision/{name}")) == (validations if stage == "vision" else 0)
    assert [path.name for path in (run / "vision" / "overlap").iterdir()] == ["step-000002.png"]
    events = EventAccumulator(str(run / "vision")).Reload()
    assert "latent/adj_cos" in events.Tags()["scalars"]
    assert not (run / "finetune" / "overlap").exists()


def test_weights_and_biases_gets_the_same_numbers(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = train(
        make_config(workspace, tmp_path, "training.wandb_project=panoramas", "training.stages=[resampler, finetune]")
    )
    wandb.teardown()
    for stage in ("resampler", "finetune"):
        (log,) = (result.run_dir / stage / "wandb").glob("offline-run-*/*.wandb")
        assert b"latent/adj_cos" in log.read_bytes()


def test_provenance_names_data_seed_and_device(finished: TrainingResult, workspace: Path) -> None:
    content = json.loads((finished.run_dir / "provenance.json").read_text())
    assert set(content["data_sha256"]) == {str(workspace / "train.csv"), str(workspace / "val.csv")}
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in content["data_sha256"].values())
    assert (content["seed"], content["device"]) == (42, "cpu")
    assert content["packages"]["torch"] == torch.__version__


def test_the_saved_configuration_gives_the_same_run(finished: TrainingResult, workspace: Path, tmp_path: Path) -> None:
    saved = ConfigManager.load(finished.run_dir / "config.yaml", overrides=[f"output.runs_dir={tmp_path}"], strict=True)
    again = train(saved)
    for stage in STAGES:
        for column in ("train_loss", "val_loss"):
            assert losses(again.run_dir, stage, column) == losses(finished.run_dir, stage, column)
    other = train(
        ConfigManager.load(
            finished.run_dir / "config.yaml", overrides=[f"output.runs_dir={tmp_path}", "training.seed=7"]
        )
    )
    assert losses(other.run_dir, "finetune", "val_loss") != losses(finished.run_dir, "finetune", "val_loss")


def test_training_lowers_the_loss(workspace: Path, tmp_path: Path) -> None:
    override = "training.stage_configs.finetune.epochs=12"
    result = train(
        make_config(
            workspace, tmp_path, override, "training.stages=[finetune]", f"data.csv_val={workspace / 'train.csv'}"
        )
    )
    values = losses(result.run_dir, "finetune", "val_loss")
    assert len(values) == 12
    assert values[-1] < 0.7 * values[0]


def test_the_export_answers_and_has_no_adapters_left(finished: TrainingResult) -> None:
    model = PanoramaVLM.from_pretrained(finished.export_dir)
    assert not model.language_model.has_lora
    assert not any("lora" in name for name, _ in model.named_parameters())
    generator = PanoramaGenerator.from_checkpoint(finished.export_dir, "transformers", device="cpu")
    assert isinstance(generator.answer(make_panorama(0), "What is ahead?"), str)
    generator.close()


def test_only_the_last_vision_block_was_trained(finished: TrainingResult, workspace: Path) -> None:
    from transformers import AutoModel

    original = dict(AutoModel.from_pretrained(workspace / "siglip").named_parameters())
    exported = dict(PanoramaVLM.from_pretrained(finished.export_dir).vision.named_parameters())
    changed = set()
    for name, value in exported.items():
        (source,) = [key for key in original if name.endswith(key)]
        if not torch.equal(value, original[source]):
            changed.add(source)
    assert any("layers.1." in name for name in changed)
    assert all("layers.1." in name or "post_layernorm" in name for name in changed)


def test_validation_and_checkpoint_come_even_if_steps_end_before_the_epoch(workspace: Path, tmp_path: Path) -> None:
    result = train(
        make_config(workspace, tmp_path, "training.stage_configs.finetune.max_steps=1", "training.stages=[finetune]")
    )
    assert len(losses(result.run_dir, "finetune", "val_loss")) == 1
    assert result.best_metrics["finetune"] is not None


def test_without_validation_data_the_training_loss_decides(workspace: Path, tmp_path: Path) -> None:
    result = train(make_config(workspace, tmp_path, "data.csv_val=null", "training.stages=[resampler]"))
    assert result.best_metrics["resampler"] is not None
    assert list((result.run_dir / "resampler").glob("resampler-epoch=*-train_loss=*.ckpt"))


def test_a_stage_can_have_tables_of_its_own(workspace: Path, tmp_path: Path) -> None:
    table = tmp_path / "one.csv"
    table.write_text(f"url,query,annotation\n{workspace / '0.png'},sky,blue\n")
    config = make_config(
        workspace,
        tmp_path / "runs",
        "training.stages=[resampler, finetune]",
        f"training.stage_configs.finetune.data.csv_train={table}",
    )
    result = train(config)
    assert str(table) in json.loads((result.run_dir / "provenance.json").read_text())["data_sha256"]


def test_views_and_cached_features_train_alike(
    workspace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    curves = {}
    for packed in ("true", "false"):
        for cache in ("cold", "warm", "off"):
            config = make_config(
                workspace,
                tmp_path / cache,
                f"training.cache_features={'false' if cache == 'off' else 'true'}",
                f"training.feature_cache_dir={tmp_path / packed}",
                f"training.pack_questions={packed}",
                "training.num_workers=0",
                "training.stages=[finetune]",
            )
            curves[cache] = losses(train(config).run_dir, "finetune", "val_loss")
        assert curves["cold"] == pytest.approx(curves["warm"], rel=1e-4)
        # Cached features are kept in half precision.
        assert curves["warm"] == pytest.approx(curves["off"], rel=5e-3)
    assert "vision features of 6 of 6 panoramas are cached" in caplog.text
    assert "0 known, 6 computed to be kept" in caplog.text
    assert "6 known, 0 computed to be kept" in caplog.text
    assert "vision features are not cached: training.cache_features is false" in caplog.text
    # Only without the cache are there views to keep.
    assert caplog.text.count("of views are kept in memory") == 2


def test_views_are_cut_once_in_a_stage_and_the_losses_are_the_same(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loaded = PanoramaImageProcessor.load, []

    def noting(self: PanoramaImageProcessor, *arguments: Any, **options: Any) -> torch.Tensor:
        loaded.append(options["name"])
        return load(self, *arguments, **options)

    monkeypatch.setattr(PanoramaImageProcessor, "load", noting)
    curves = []
    for max_bytes, most in ((2**30, 1), (0, 3)):
        loaded.clear()
        options = ("training.stages=[vision]", "training.stage_configs.vision.epochs=3", "training.num_workers=0")
        config = make_config(workspace, tmp_path / str(most), *options, f"training.view_memory_bytes={max_bytes}")
        curves.append(losses(train(config).run_dir, "vision", "val_loss"))
        assert set(Counter(loaded).values()) == {most}
    assert curves[0] == curves[1]


def test_another_encoder_has_features_of_its_own(workspace: Path, tmp_path: Path) -> None:
    config = make_config(workspace, tmp_path)
    model, _ = build_model(config)
    key = features_key(model, "32-true")
    assert features_key(build_model(config)[0], "32-true") == key
    assert features_key(model, "bf16-mixed") != key
    with torch.no_grad():
        next(model.vision.parameters()).flatten()[0].add_(1e-3)
    assert features_key(model, "32-true") != key
    wider = make_config(workspace, tmp_path, "image_processing.fov_deg=80")
    assert features_key(build_model(wider)[0], "32-true") != key


def test_a_turned_or_trained_stage_caches_nothing(
    workspace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    train(make_config(workspace, tmp_path, "data.yaw_augmentation=force", "training.stages=[vision, resampler]"))
    assert "stage vision: vision features are not cached: the vision encoder is trained" in caplog.text
    assert "stage resampler: vision features are not cached: data.yaw_augmentation changes the pixels" in caplog.text
    assert not (tmp_path / "feature_cache").exists()


def test_a_bad_panorama_is_listed_or_ends_the_run(workspace: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes((workspace / "0.png").read_bytes()[:80])
    table = tmp_path / "train.csv"
    lines = [f"{workspace / '1.png'},sky,one", f"{bad},sky,blue", f"{workspace / '2.png'},sky,two"]
    table.write_text("\n".join(["url,query,annotation", *lines]) + "\n")
    options = (f"data.csv_train={table}", "training.stages=[finetune]", "training.stage_configs.finetune.batch_size=1")
    # One of the batches has nothing in it.
    result = train(make_config(workspace, tmp_path, *options, "data.max_skipped_share=0.5"))
    with (result.run_dir / "skipped.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["data"], row["image"]) == ("finetune/train", str(bad))
    assert "bad.png" in row["reason"]
    assert len(losses(result.run_dir, "finetune", "val_loss")) == 2
    with pytest.raises(DataError, match=r"1 of the 3 panoramas of finetune/train cannot be used, .*skipped\.csv lists"):
        train(make_config(workspace, tmp_path, *options))


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("data.csv_train=null", ConfigError, "stage 'vision' has no training data: set data.csv_train"),
        ("data.csv_train=none.csv", DataError, r"none\.csv: no such file"),
        ("models.resampler_type=bimabma", ConfigError, r"did you mean 'bimamba'"),
        ("image_processing.crop_strategy=e2pp", ConfigError, r"did you mean 'e2p'"),
        ("training.stage_configs.vision.max_text_length=4", None, ""),
        ("training.stage_configs.finetune.max_text_length=4", DataError, r"train\.csv, line 2: .*max_text_length 4"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_made(
    workspace: Path, tmp_path: Path, override: str, error: type[Exception] | None, message: str
) -> None:
    config = make_config(workspace, tmp_path, override, "training.stages=[vision, finetune]")
    if error is None:
        assert CORATrainer(config).config is config
        return
    with pytest.raises(error, match=message):
        train(config)
    assert not (tmp_path / "small").exists()


def test_a_missing_panorama_stops_before_the_first_stage(workspace: Path, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("url,query,annotation\nnone.png,sky,blue\n")
    with pytest.raises(ImageError, match=r"rows\.csv, line 2: .*none\.png: no such file"):
        train(make_config(workspace, tmp_path, f"data.csv_train={table}"))
    assert not (tmp_path / "small").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_no_cpu(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"training\.accelerator is 'gpu', but torch .* sees no CUDA device"):
        train(make_config(workspace, tmp_path, "training.accelerator=gpu"))
