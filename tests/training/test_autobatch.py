"""A batch size that is found: as large as memory, the data and a bound allow, and without a trace in the model."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tiny_runs import make_config, write_workspace

from cora.config.schema import CORAConfig
from cora.data.datamodule import PanoramaDataModule
from cora.training import autobatch
from cora.training.autobatch import fit_batch_size, largest_fitting, resume_batch_size
from cora.training.build import build_model
from cora.training.dry_run import dry_run
from cora.training.memory import available_bytes, measure_saved, size_of
from cora.training.module import PanoramaTrainingModule
from cora.training.trainer import CORATrainer

AUTO = "training.stage_configs.finetune.batch_size=-1"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("autobatch"))


def make_stage(workspace: Path, runs_dir: Path) -> tuple[CORAConfig, PanoramaTrainingModule, PanoramaDataModule]:
    config = make_config(workspace, runs_dir, AUTO, "lora.dropout=0.5")
    model, processor = build_model(config)
    data = PanoramaDataModule(workspace / "train.csv", None, processor)  # eight questions, not packed
    return config, PanoramaTrainingModule(model, config, "finetune"), data


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9, 31, 64])
@pytest.mark.parametrize("most", [1, 5, 16, 64])
def test_the_largest_that_fits_is_found_in_few_trials(limit: int, most: int) -> None:
    tried = []

    def needed(size: int) -> int | None:
        tried.append(size)
        return None if size > limit else 10 * size

    assert largest_fitting(needed, 10_000, most) == min(limit, most)
    assert largest_fitting(lambda size: 10 * size, 10 * limit, most) == min(limit, most)
    assert max(tried) <= most
    assert len(tried) <= 13


def test_nothing_fits_but_one_sample_is_tried_all_the_same() -> None:
    assert largest_fitting(lambda size: None, 100, 8) == 1


def test_memory_decides_and_the_model_stays_as_it_was(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config, module, data = make_stage(workspace, tmp_path)
    module.train().on_train_epoch_start()
    kept = {}
    for size in (5, 6):
        with measure_saved(module) as saved_bytes:
            module._losses(data.largest_batch(size))
        kept[size] = saved_bytes()
    # Room for five and a half: gradients and two moments, and one and a half times what is kept.
    room = 3 * size_of(module, trained_only=True)[1] + 1.5 * (kept[5] + kept[6]) / 2
    monkeypatch.setattr(autobatch, "available_bytes", lambda: int(2 * room))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(3)
    fit_batch_size(module, data, config, "32-true")
    assert data.batch_size == data.sampler.batch_size == data.sampler.step_size == 5
    assert re.search(r"stage finetune: batch_size 5, limited by 0\.\d\d GiB of memory", caplog.text)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(3)))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(item.grad is None for item in module.parameters())


def test_the_data_or_a_bound_decides(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config, module, data = make_stage(workspace, tmp_path)
    fit_batch_size(module, data, config, "32-true")
    assert data.batch_size == 8
    assert "batch_size 8, limited by the training data" in caplog.text
    monkeypatch.setitem(autobatch._MOST, "cpu", 6)
    fit_batch_size(module, data, config, "32-true")
    assert data.batch_size == 6
    assert "batch_size 6, limited by the bound of 6 on a CPU" in caplog.text


def test_the_largest_batch_has_the_longest_samples_of_different_panoramas(workspace: Path, tmp_path: Path) -> None:
    _, _, data = make_stage(workspace, tmp_path)
    batch = data.largest_batch(4)
    assert batch["pixel_values"].shape[0] == 4
    assert batch["input_ids"].shape[1] == max(data.train_dataset.lengths or [])
    assert data.largest_batch(100)["input_ids"].shape[0] == 8


def test_a_stage_trains_with_the_size_that_was_found(workspace: Path, tmp_path: Path) -> None:
    sizes: list[int] = []

    class Sizes(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            sizes.append(batch["input_ids"].shape[0])

    options = (AUTO, "training.stages=[finetune]", "training.pack_questions=false")
    config = make_config(workspace, tmp_path, *options)
    CORATrainer(config, show_progress=False, callbacks=[Sizes()]).train()
    assert sizes == [8, 8]
    (report,) = dry_run(config)
    assert report.error is None
    assert report.shapes["input_ids"][0] == 8


def test_there_is_memory_on_this_machine() -> None:
    assert 2**20 < available_bytes() < 2**50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_tried_out(workspace: Path, tmp_path: Path) -> None:
    config, module, data = make_stage(workspace, tmp_path)
    config = config.model_copy(update={"training": config.training.model_copy(update={"accelerator": "cuda"})})
    fit_batch_size(module, data, config, "bf16-mixed")
    assert data.batch_size == 8


def test_a_resumed_stage_goes_on_with_the_size_of_its_checkpoint(workspace: Path, tmp_path: Path) -> None:
    config, _, data = make_stage(workspace, tmp_path)
    data.set_batch_size(3)
    place = data.sampler.state_dict()
    data.set_batch_size(1)
    resume_batch_size(data, config.training.stage_configs["vision"], place)
    assert data.batch_size == 1  # that stage says its size itself
    resume_batch_size(data, config.training.stage_configs["finetune"], place)
    data.load_state_dict(place)
    assert data.batch_size == data.sampler.batch_size == 3
