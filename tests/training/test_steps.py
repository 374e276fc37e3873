"""What happens around a step: accumulated and clipped gradients, and a validation that keeps nothing."""

from __future__ import annotations

import csv
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny_models import make_batch, make_model
from tiny_runs import make_config, write_workspace

from cora.config.schema import CORAConfig
from cora.data.synthetic import write_split
from cora.training import diagnostics
from cora.training.callbacks import CUDACacheCleanupCallback
from cora.training.module import PanoramaTrainingModule
from cora.training.trainer import CORATrainer

ONLY_FINETUNE = ("training.stages=[finetune]", "training.cache_features=false")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("steps"))


def validation_losses(run_dir: Path) -> list[float]:
    with (run_dir / "finetune" / "metrics.csv").open(newline="") as stream:
        return [float(row["val_loss"]) for row in csv.DictReader(stream) if row.get("val_loss")]


def test_accumulated_batches_step_as_one_large_batch(workspace: Path, tmp_path: Path) -> None:
    curves = []
    for batch_size, accumulated in ((4, 1), (2, 2), (1, 4)):
        stage = "training.stage_configs.finetune"
        options = (f"{stage}.batch_size={batch_size}", f"{stage}.accumulate_grad_batches={accumulated}")
        config = make_config(workspace, tmp_path, *ONLY_FINETUNE, *options)
        curves.append(validation_losses(CORATrainer(config, show_progress=False).train().run_dir))
    # The validation has batches of another size, whose padding changes the last digits.
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
    assert curves[2] == pytest.approx(curves[0], rel=1e-3)
    assert curves[0][1] < curves[0][0]


class GradientNorms(Callback):
    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        gradients = [item.grad for item in pl_module.parameters() if item.grad is not None]
        if gradients:
            self.norms.append(float(torch.linalg.vector_norm(torch.stack([item.norm() for item in gradients]))))


@pytest.mark.parametrize(("clip", "expected"), [("0.01", 0.01), ("null", None)])
def test_gradients_are_clipped_to_the_norm(workspace: Path, tmp_path: Path, clip: str, expected: float | None) -> None:
    seen = GradientNorms()
    config = make_config(workspace, tmp_path, *ONLY_FINETUNE, f"training.gradient_clip_val={clip}")
    CORATrainer(config, show_progress=False, callbacks=[seen]).train()
    assert seen.norms
    if expected is None:
        assert max(seen.norms) > 0.1
    else:
        assert seen.norms == pytest.approx([expected] * len(seen.norms), rel=1e-3)


def test_a_validation_keeps_no_more_after_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "MAX_PANORAMAS", 4)
    model, processor = make_model()
    module = PanoramaTrainingModule(model, CORAConfig(), "resampler").eval()
    batch = make_batch(processor)
    module.on_validation_epoch_start()

    def bytes_after(number: int) -> int:
        with torch.no_grad():
            for index in range(number):
                module.validation_step(batch, index)
        gc.collect()
        return sum(item.nbytes for item in gc.get_objects() if type(item) is torch.Tensor)

    few = bytes_after(3)
    assert bytes_after(20) == few
    assert not any(value.requires_grad for value in module._validation.values())
    vocabulary = model.language_model.embeddings.weight.shape[0]
    kept = [item for item in gc.get_objects() if type(item) is torch.Tensor and item.shape[-1:] == (vocabulary,)]
    assert kept == []


def test_validation_runs_without_gradients(workspace: Path, tmp_path: Path) -> None:
    seen: list[bool] = []

    class Modes(Callback):
        def on_validation_batch_start(self, *arguments: Any, **options: Any) -> None:
            seen.append(torch.is_grad_enabled())

    CORATrainer(make_config(workspace, tmp_path, *ONLY_FINETUNE), show_progress=False, callbacks=[Modes()]).train()
    assert seen
    assert not any(seen)


def test_the_cache_is_cleaned_before_and_within_validation_and_training(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: cleaned.append("x"))
    callback = CUDACacheCleanupCallback(every_n_batches=3, every_n_validation_batches=2)
    nothing: Any = None
    for index in range(7):
        callback.on_train_batch_end(nothing, nothing, nothing, nothing, index)
    assert len(cleaned) == 2
    callback.on_validation_start(nothing, nothing)
    for index in range(5):
        callback.on_validation_batch_end(nothing, nothing, nothing, nothing, index)
    assert len(cleaned) == 5


def test_a_synthetic_table_is_trained_on_with_turned_panoramas(workspace: Path, tmp_path: Path) -> None:
    tables = {
        split: write_split(tmp_path, split, num_scenes=2, first_seed=seed, height=32, width=64, workers=1).csv
        for split, seed in (("train", 0), ("val", 9))
    }
    config = make_config(
        workspace,
        tmp_path / "runs",
        *ONLY_FINETUNE,
        "data.yaw_augmentation=true",
        f"data.csv_train={tables['train']}",
        f"data.csv_val={tables['val']}",
    )
    trainer = CORATrainer(config, show_progress=False)
    result = trainer.train()
    assert len(validation_losses(result.run_dir)) == 2
