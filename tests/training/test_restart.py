"""Restarting: what --resume and --stage find, what they refuse, and that what goes on is what was left."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tiny_runs import EXPERIMENT, STAGES, Recorder, read_batches, read_events, start, write_config, write_workspace

from cora.config.manager import ConfigManager
from cora.errors import CheckpointError, ConfigError, CoraError
from cora.training.checkpoints import read_checkpoint
from cora.training.curves import read_metrics
from cora.training.trainer import CORATrainer, TrainingResult

STAGE = {"batch_size": 2, "lr": 1e-3, "epochs": 2, "accumulate_grad_batches": 2}
Batches = dict[tuple[str, int, int], dict[str, Any]]


class Crash(RuntimeError):
    pass


class CrashAt(Callback):
    """Ends a run as an error would, where `hook` of `stage` is called the n-th time."""

    def __init__(self, stage: str, hook: str, number: int) -> None:
        self.stage = stage
        self.left = number

        def crash(trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            if pl_module.stage_name == self.stage:
                self.left -= 1
                if self.left == 0:
                    raise Crash

        setattr(self, hook, crash)


@dataclass
class Workspace:
    """Towers and tables that all tests share, and a folder for runs."""

    data: Path
    folder: Path

    def config(self, runs: str, *overrides: str, **training: Any) -> Any:
        path = write_config(self.data, self.folder / runs, **training)
        return ConfigManager.load(path, overrides=overrides, strict=True)

    def train(self, config: Any, *callbacks: Callback, **options: Any) -> TrainingResult:
        record = Recorder(Path(config.output.runs_dir) / "record.jsonl")
        trainer = CORATrainer(
            config, experiment=EXPERIMENT, show_progress=False, callbacks=[record, *callbacks], **options
        )
        return trainer.train()

    def crash(self, config: Any, stage: str, hook: str, number: int, **options: Any) -> Path:
        with pytest.raises(Crash):
            self.train(config, CrashAt(stage, hook, number), **options)
        return sorted((Path(config.output.runs_dir) / EXPERIMENT).glob("*"))[-1]

    def batches(self, runs: str) -> Batches:
        return read_batches(self.folder / runs / "record.jsonl")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restart")
    write_workspace(folder, num_panoramas=9, num_validated=3, lengths_differ=True)
    return folder


@pytest.fixture
def workspace(shared: Path, tmp_path: Path) -> Workspace:
    return Workspace(shared, tmp_path)


@pytest.fixture(scope="module")
def finished(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, TrainingResult]:
    workspace = Workspace(shared, tmp_path_factory.mktemp("finished"))
    return workspace, workspace.train(workspace.config("whole"))


def assert_same(found: Batches, expected: Batches, *stages: str) -> None:
    expected = {key: event for key, event in expected.items() if key[0] in (stages or STAGES)}
    assert {key for key in found if key[0] in (stages or STAGES)} == expected.keys()
    for key, event in expected.items():
        assert found[key]["samples"] == event["samples"], key
        assert found[key]["loss"] == pytest.approx(event["loss"], rel=1e-5), key


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_finished_run_is_left_alone(
    finished: tuple[Workspace, TrainingResult], caplog: pytest.LogCaptureFixture
) -> None:
    workspace, result = finished
    caplog.set_level(logging.INFO)
    before = snapshot(result.run_dir)
    again = workspace.train(workspace.config("whole"), resume="auto")
    assert again == result
    assert f"{result.run_dir} is finished: nothing is left to do" in caplog.text
    assert snapshot(result.run_dir) == before
    assert workspace.train(workspace.config("whole"), resume="auto", stage="resampler").run_dir == result.run_dir
    assert snapshot(result.run_dir) == before


def test_auto_starts_where_there_is_nothing(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = workspace.config("runs", "training.stages=[vision]")
    left_early = workspace.folder / "runs" / EXPERIMENT / "20200101_001"
    left_early.mkdir(parents=True)
    result = workspace.train(config, resume="auto")
    assert f"nothing to resume in {left_early.parent}: a new run starts" in caplog.text
    assert result.run_dir != left_early


@pytest.mark.parametrize(
    ("stage", "hook", "number"),
    [
        ("vision", "on_train_batch_end", 1),  # before there is a checkpoint
        ("resampler", "on_train_batch_end", 5),  # within an epoch
        ("resampler", "on_train_batch_end", 9),  # with its last batch
        ("resampler", "on_validation_batch_end", 2),  # within a validation
        ("resampler", "on_validation_end", 1),  # with a result that no checkpoint knows yet
        ("resampler", "on_train_epoch_end", 1),  # between epochs
        ("finetune", "on_train_epoch_end", 2),  # with everything trained
        ("finetune", "on_train_start", 1),  # between stages
    ],
)
def test_what_goes_on_is_what_was_left(
    finished: tuple[Workspace, TrainingResult], workspace: Workspace, stage: str, hook: str, number: int
) -> None:
    whole, result = finished
    run = workspace.crash(workspace.config("runs"), stage, hook, number)
    resumed = workspace.train(workspace.config("runs"), resume="auto")
    assert resumed.run_dir == run
    assert_same(workspace.batches("runs"), whole.batches("whole"))
    assert resumed.best_metrics == pytest.approx(result.best_metrics, rel=1e-5)
    for name in STAGES:
        curves, expected = (read_metrics(folder / name / "metrics.csv") for folder in (run, result.run_dir))
        assert {key: [step for step, _ in points] for key, points in curves.items()} == {
            key: [step for step, _ in points] for key, points in expected.items()
        }
    assert len(json.loads((run / "provenance.json").read_text())["resumed"]) == 1


def test_a_validation_that_went_on_is_not_run_again(
    finished: tuple[Workspace, TrainingResult], workspace: Workspace
) -> None:
    """Lightning would run its last batches once more, and choose the best checkpoint by their loss."""
    config = workspace.config("runs", "training.stages=[vision]")
    run = workspace.crash(config, "vision", "on_validation_batch_end", 2)
    workspace.crash(config, "vision", "on_train_batch_end", 1, resume="auto")
    # As after a kill before the checkpoint that was best had been removed.
    (run / "vision" / "vision-epoch=00-val_loss=99.0000.ckpt").touch()
    workspace.train(config, resume="auto")
    assert len(list((run / "vision").glob("vision-epoch=*.ckpt"))) == 1
    curves, expected = (read_metrics(folder / "vision/metrics.csv") for folder in (run, finished[1].run_dir))
    for name in ("val_loss", "latent/feat_std"):
        assert [step for step, _ in curves[name]] == [step for step, _ in expected[name]]
        assert [value for _, value in curves[name]] == pytest.approx([value for _, value in expected[name]], rel=1e-5)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_train_end"])
def test_without_validation_data_too(workspace: Workspace, hook: str) -> None:
    overrides = ("data.csv_val=null", "training.stages=[finetune]")
    whole = workspace.train(workspace.config("whole", *overrides))
    workspace.crash(workspace.config("runs", *overrides), "finetune", hook, 1 if hook != "on_train_batch_end" else 14)
    resumed = workspace.train(workspace.config("runs", *overrides), resume="auto")
    assert_same(workspace.batches("runs"), workspace.batches("whole"), "finetune")
    assert resumed.best_metrics == pytest.approx(whole.best_metrics, rel=1e-5)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_batch_end", "on_train_epoch_end"])
def test_a_stage_that_ends_within_an_epoch(workspace: Workspace, hook: str) -> None:
    overrides = ("training.stages=[finetune]", "training.stage_configs.finetune.max_steps=7")
    whole = workspace.train(workspace.config("whole", *overrides))
    assert len(read_metrics(whole.run_dir / "finetune/metrics.csv")["val_loss"]) == 2
    number = {"on_train_batch_end": 12, "on_validation_batch_end": 4, "on_train_epoch_end": 2}[hook]
    workspace.crash(workspace.config("runs", *overrides), "finetune", hook, number)
    resumed = workspace.train(workspace.config("runs", *overrides), resume="auto")
    assert_same(workspace.batches("runs"), workspace.batches("whole"), "finetune")
    assert len(workspace.batches("runs")) == 9 + 4
    assert resumed.best_metrics == pytest.approx(whole.best_metrics, rel=1e-5)


@pytest.mark.parametrize(("batch_size", "accumulate", "workers"), [(2, 2, 2), (4, 1, 0), (1, 4, 0)])
def test_other_workers_and_batches_go_on_in_the_same_order(
    finished: tuple[Workspace, TrainingResult], workspace: Workspace, batch_size: int, accumulate: int, workers: int
) -> None:
    workspace.crash(workspace.config("runs"), "resampler", "on_train_batch_end", 5)
    other = {**STAGE, "batch_size": batch_size, "accumulate_grad_batches": accumulate}
    stages = {"vision": {**STAGE, "vision_trainable_blocks": 1}, "resampler": other, "finetune": STAGE}
    config = workspace.config("runs", stage_configs=stages, num_workers=workers)
    workspace.train(config, resume="auto", stage="resampler")

    def steps(batches: Batches) -> list[list[int]]:
        drawn: dict[int, list[int]] = {}
        for (stage, epoch, _), event in batches.items():
            if stage == "resampler":
                drawn.setdefault(epoch, []).extend(event["samples"])
        return [sorted(order[k : k + 4]) for order in drawn.values() for k in range(0, len(order), 4)]

    # Only what was trained on after the restart has other batches.
    resumed = [
        event for event in read_events(workspace.folder / "runs/record.jsonl") if event.get("stage") == "resampler"
    ]
    restart = [number for number, event in enumerate(resumed) if event["event"] == "train"][-1]
    found: Batches = {
        (event["stage"], event["epoch"], number): event
        for number, event in enumerate(resumed)
        if event["event"] == "batch" and (number > restart or event["batch"] < 4)
    }
    assert steps(found) == steps(finished[0].batches("whole"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["models.latent_dimension=16"], r"models\.latent_dimension \(24, now 16\)"),
        (["training.stage_configs.resampler.lr=0.5"], r"training\.stage_configs\.resampler\.lr \(0\.001, now 0\.5\)"),
        (
            ["training.seed=7", "training.gradient_clip_val=2.0"],
            r"gradient_clip_val \(1\.0, now 2\.0\), training\.seed",
        ),
        (["training.stage_configs.vision.vision_loss_type=vicreg"], r"vision\.vision_loss_type \('contrastive', now"),
        (["data.csv_train=val.csv"], r"the content of .*val\.csv"),
        (["training.stages=[resampler]"], r"training\.stages"),
        (["training.stage_configs.resampler.batch_size=4"], r"is 8 samples per step and was 4"),
    ],
)
def test_what_would_mix_two_runs_is_refused(
    half: Workspace, overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(half.data)
    run = next((half.folder / "runs" / EXPERIMENT).glob("*"))
    before = snapshot(run)
    with pytest.raises(CoraError, match=message):
        half.train(half.config("runs", *overrides), resume="auto")
    assert snapshot(run) == before


@pytest.fixture(scope="module")
def half(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run that ended within its second stage."""
    workspace = Workspace(shared, tmp_path_factory.mktemp("half"))
    workspace.crash(workspace.config("runs"), "resampler", "on_train_batch_end", 5)
    return workspace


def test_what_changes_nothing_that_is_learnt_is_accepted(
    half: Workspace, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shutil.copytree(half.folder, workspace.folder, dirs_exist_ok=True)
    # A table lies elsewhere, and is the same.
    table = shutil.copy(workspace.data / "train.csv", workspace.folder)
    overrides = [
        f"data.csv_train={table}",
        f"data.image_root={workspace.data}",
        "training.num_workers=1",
        "training.checkpoint_every_minutes=3",
        "training.stage_configs.finetune.lr=0.002",
        "generation.max_new_tokens=7",
        "lora.rank=2",
    ]
    config = workspace.config("runs", *overrides)
    result = workspace.train(config, resume="auto")
    assert (
        "going on with changed keys: data.csv_train, data.image_root, generation.max_new_tokens, lora.rank"
        in caplog.text
    )
    assert ConfigManager.load(result.run_dir / "config.yaml").lora.rank == 2


def test_a_run_folder_that_was_moved_goes_on(half: Workspace, workspace: Workspace) -> None:
    run = next((half.folder / "runs" / EXPERIMENT).glob("*"))
    moved = workspace.folder / "elsewhere" / "there"
    shutil.copytree(run, moved)
    (moved / "resampler" / "resampler-epoch=09-val_loss=1.0000.ckpt.part").write_text("half")
    result = workspace.train(workspace.config("runs"), resume=str(moved))
    assert result.run_dir == moved
    state = json.loads((moved / "stage_state.json").read_text())
    assert state["completed_stages"] == list(STAGES)
    assert (moved / state["resampler"]["checkpoint"]).is_file()
    assert not list(moved.glob("*/*.part"))


def test_from_a_checkpoint_the_stages_after_it_are_run_again(
    finished: tuple[Workspace, TrainingResult], workspace: Workspace
) -> None:
    whole, result = finished
    run = workspace.folder / "runs" / EXPERIMENT / "20200101_001"
    shutil.copytree(result.run_dir, run)
    last = run / "resampler" / "last.ckpt"
    resumed = workspace.train(workspace.config("runs"), resume=str(last))
    assert {key[0] for key in workspace.batches("runs")} == {"finetune"}
    assert_same(workspace.batches("runs"), whole.batches("whole"), "finetune")
    assert resumed.best_metrics == pytest.approx(result.best_metrics, rel=1e-5)


def test_one_stage_at_a_time_is_the_same_run(finished: tuple[Workspace, TrainingResult], workspace: Workspace) -> None:
    config = workspace.config("runs")
    with pytest.raises(
        CheckpointError, match=r"stage 'resampler' stands on vision, and no run in .* has finished that"
    ):
        workspace.train(config, stage="resampler")
    results = [workspace.train(config, stage=stage) for stage in STAGES]
    assert len({result.run_dir for result in results}) == 1
    assert list(results[0].best_metrics) == ["vision"]
    assert_same(workspace.batches("runs"), finished[0].batches("whole"))
    assert results[-1].best_metrics == pytest.approx(finished[1].best_metrics, rel=1e-5)
    with pytest.raises(CheckpointError, match=r"stage 'resampler' is finished in "):
        workspace.train(config, stage="resampler")
    with pytest.raises(ConfigError, match=r"--stage reampler: training\.stages are vision, resampler, finetune"):
        workspace.train(config, stage="reampler")


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_end"])
def test_a_best_checkpoint_that_was_replaced_does_not_outlive_a_resumed_stage(workspace: Workspace, hook: str) -> None:
    config = workspace.config("stale", stages=["vision"])
    run = workspace.crash(config, "vision", hook, 4 if hook == "on_train_batch_end" else 1)
    # A kill came between two renames, that of the better checkpoint and the one that removes what it replaced.
    stale = run / "vision/vision-epoch=00-val_loss=99.9000.ckpt"
    shutil.copyfile(run / "vision/last.ckpt", stale)
    workspace.train(config, resume="auto")
    assert not stale.exists()
    assert len(list((run / "vision").glob("vision-*.ckpt"))) == 1


def test_paths_that_are_no_run(half: Workspace, tmp_path: Path) -> None:
    config = half.config("runs")
    run = next((half.folder / "runs" / EXPERIMENT).glob("*"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"none: no such run folder or checkpoint"):
        half.train(config, resume=str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match=r"neither a run folder nor .* no config\.yaml in"):
        half.train(config, resume=str(tmp_path / "empty"))
    with pytest.raises(CheckpointError, match=r"is a checkpoint of stage 'resampler', not of 'vision'"):
        half.train(config, resume=str(run / "resampler/last.ckpt"), stage="vision")
    with pytest.raises(CheckpointError, match=r"stage 'finetune' stands on 'resampler', which is not finished"):
        half.train(config, resume="auto", stage="finetune")


def test_a_damaged_checkpoint_is_named(half: Workspace, workspace: Workspace) -> None:
    shutil.copytree(half.folder / "runs" / EXPERIMENT, workspace.folder / "runs" / EXPERIMENT)
    (last,) = (workspace.folder / "runs").glob("*/*/resampler/last.ckpt")
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"resampler/last\.ckpt: not a loadable checkpoint"):
        workspace.train(workspace.config("runs"), resume="auto")
    torch.save({"global_step": 1}, last)
    with pytest.raises(CheckpointError, match=r"last\.ckpt does not say where in its stage it is"):
        workspace.train(workspace.config("runs"), resume="auto")


@pytest.mark.parametrize(("every", "steps"), [(1, [2, 4, 5, 7, 9, 10]), (3, [3, 5, 8, 10]), (None, [5, 10])])
def test_checkpoints_within_an_epoch(
    workspace: Workspace, every: int | None, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    save = Trainer.save_checkpoint

    def noted(self: Trainer, path: Any, *args: Any, **kwargs: Any) -> None:
        if Path(path).name == "last.ckpt":
            written.append(self.global_step)
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(Trainer, "save_checkpoint", noted)
    options: dict[str, Any] = {"checkpoint_every_n_steps": every, "checkpoint_every_minutes": None}
    result = workspace.train(workspace.config("runs", "training.stages=[finetune]", **options))
    if every == 1:
        assert written == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]
    else:
        assert sorted(set(written)) == steps
    assert read_checkpoint(result.run_dir / "finetune/last.ckpt")["global_step"] == 10


def test_checkpoints_by_the_clock(workspace: Workspace) -> None:
    overrides = ("training.stages=[finetune]",)
    options: dict[str, Any] = {"checkpoint_every_n_steps": None, "checkpoint_every_minutes": 1e-9}
    run = workspace.crash(workspace.config("runs", *overrides, **options), "finetune", "on_train_batch_end", 7)
    assert read_checkpoint(run / "finetune/last.ckpt")["global_step"] == 3


def _stop(config: Path, record: Path, event: str, number: int) -> tuple[int, float, str]:
    """Send a signal to all processes of a run once `event` has been noted; return exit code, seconds and stderr."""
    process = start(config, "--resume", "auto", record=record, pause=1.0)
    try:
        while process.poll() is None and not any(item["event"] == event for item in read_events(record)):
            time.sleep(0.002)
        sent = time.monotonic()
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, time.monotonic() - sent, errors


def _is_group_gone(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("event", "number", "code", "num_workers"),
    [
        ("batch", signal.SIGTERM, 143, 0),
        ("validation", signal.SIGTERM, 143, 0),
        ("batch", signal.SIGTERM, 143, 2),
        ("batch", signal.SIGINT, 130, 2),
    ],
)
def test_a_signal_ends_a_run_with_a_checkpoint(
    finished: tuple[Workspace, TrainingResult],
    workspace: Workspace,
    event: str,
    number: int,
    code: int,
    num_workers: int,
) -> None:
    options: dict[str, Any] = {"checkpoint_every_n_steps": None, "num_workers": num_workers}
    config = write_config(workspace.data, workspace.folder / "runs", **options)
    record = workspace.folder / "runs" / "record.jsonl"
    returncode, seconds, errors = _stop(config, record, event, number)
    assert returncode == code, errors
    assert seconds < 10
    assert "Traceback" not in errors
    (last,) = (workspace.folder / "runs" / EXPERIMENT).glob("*/vision/last.ckpt")
    name = signal.Signals(number).name
    assert f"error: training was stopped by {name}: '--resume auto' goes on from {last}" in errors
    state = read_checkpoint(last)
    assert state["callbacks"]["LastCheckpoint"]["validation_pending"] == (event == "validation")
    assert state["global_step"] == (3 if event == "validation" else 1)
    workspace.train(workspace.config("runs", **options), resume="auto", stage="vision")
    assert_same(workspace.batches("runs"), finished[0].batches("whole"), "vision")


def test_loading_processes_do_not_outlive_a_killed_run(workspace: Workspace) -> None:
    config = write_config(workspace.data, workspace.folder / "runs", num_workers=2)
    record = workspace.folder / "runs" / "record.jsonl"
    process = start(config, record=record)
    while process.poll() is None and not read_events(record):
        time.sleep(0.01)
    process.kill()
    process.wait(timeout=60)
    deadline = time.monotonic() + 20
    while not _is_group_gone(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _is_group_gone(process.pid)
    process.communicate(timeout=60)
