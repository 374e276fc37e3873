"""Several processes train one model: as one process with the same batches, into one run folder."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import EXPERIMENT, make_config, read_batches, start, write_config, write_workspace

from cora.config.manager import ConfigManager
from cora.config.schema import CORAConfig
from cora.errors import ConfigError
from cora.training.checkpoints import read_checkpoint
from cora.training.processes import count_processes, pick_strategy

STAGES = ("vision", "resampler", "finetune")
SHARDED_ON_CPU = Path(__file__).resolve().parents[1] / "sharded_on_cpu.py"
ALIKE = (
    # What a process draws by itself, or takes over its own batch only, is not the same in two of them.
    "models.vicreg_projector_dropout=0.0",
    "training.stage_configs.vision.vision_loss_type=vicreg",
    "training.stage_configs.resampler.vision_loss_type=vicreg",
    "training.cache_features=false",
    "training.precision=fp32",
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("processes"))


def run(config: CORAConfig, path: Path, *, script: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``cora-train`` as a user does: Lightning starts the other processes by the same command."""
    ConfigManager.save(config, path)
    program = [str(Path(sys.executable).with_name("cora-train"))] if script is None else [sys.executable, str(script)]
    command = [*program, "--config", str(path), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def run_dir(done: subprocess.CompletedProcess[str]) -> Path:
    assert done.returncode == 0, done.stderr
    # Progress bars are on it too, but only one process says the result.
    (document,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return Path(json.loads(document)["run_dir"])


def column(run: Path, stage: str, name: str) -> list[float]:
    with (run / stage / "metrics.csv").open(newline="") as stream:
        return [float(row[name]) for row in csv.DictReader(stream) if row.get(name)]


def weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(run / stage / "last.ckpt")["state_dict"]
    return state


@pytest.fixture(scope="module")
def alone(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    return run_dir(run(make_config(workspace, folder, *ALIKE, *batches_of(4)), folder / "small.yaml"))


def batches_of(size: int) -> list[str]:
    return [f"training.stage_configs.{stage}.batch_size={size}" for stage in STAGES]


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_train_as_one_with_their_batches_together(
    workspace: Path, tmp_path: Path, alone: Path, strategy: str
) -> None:
    options = (*ALIKE, *batches_of(2), "training.devices=2", f"training.strategy={strategy}")
    script = SHARDED_ON_CPU if strategy == "fsdp" else None
    done = run(make_config(workspace, tmp_path / "runs", *options), tmp_path / "small.yaml", script=script)
    together = run_dir(done)
    assert done.stderr.count("run folder") == 1
    assert "2 processes train together" in done.stderr
    # One folder for both processes.
    assert [path.name for path in together.parent.iterdir()] == [together.name]
    assert {path.name for path in together.iterdir()} == {path.name for path in alone.iterdir()}
    for stage in STAGES:
        one, two = weights(alone, stage), weights(together, stage)
        assert one.keys() == two.keys()
        differences = torch.cat([(two[name] - value).abs().flatten() for name, value in one.items()])
        # A step of AdamW is as long as the learning rate, 1e-3. Where a gradient is nearly zero, rounding decides it.
        assert float(differences.max()) < 5e-4
        assert float(differences.mean()) < 1e-6
        for metric in ("val_loss", "latent/adj_cos"):
            assert column(together, stage, metric) == pytest.approx(column(alone, stage, metric), rel=1e-3)


def test_skipped_panoramas_are_counted_over_processes(workspace: Path, tmp_path: Path) -> None:
    bad = []
    for number in range(2):
        bad.append(tmp_path / f"bad{number}.png")
        bad[-1].write_bytes((workspace / "0.png").read_bytes()[:80])
    table = tmp_path / "train.csv"
    rows = [workspace / "1.png", bad[0], bad[1], workspace / "2.png"]
    table.write_text("\n".join(["url,query,annotation", *(f"{row},sky,blue" for row in rows)]) + "\n")
    options = (f"data.csv_train={table}", "training.stages=[finetune]", "training.devices=2", "training.num_workers=0")
    config = make_config(workspace, tmp_path / "half", *options, "data.max_skipped_share=0.5")
    folder = run_dir(run(config, tmp_path / "half" / "small.yaml"))
    with (folder / "skipped.csv").open(newline="") as stream:
        assert sorted(row["image"] for row in csv.DictReader(stream)) == sorted(map(str, bad))
    # One of four is allowed, and no process may see both.
    config = make_config(workspace, tmp_path / "third", *options, "data.max_skipped_share=0.3")
    done = run(config, tmp_path / "third" / "small.yaml")
    assert done.returncode != 0
    assert "2 of the 4 panoramas of finetune/train cannot be used" in done.stderr


def _train_in_two(config: Path, *options: str, kill_at: int | None = None) -> str:
    """Train in two processes, both of which are killed after so many batches; return standard error."""
    record = config.parent / f"record{len(options)}.jsonl"
    process = start(config, *options, record=record)
    try:
        while process.poll() is None and kill_at is not None:
            if len(read_batches(record)) >= kill_at:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.01)
        _, errors = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == (0 if kill_at is None else -signal.SIGKILL), errors
    return errors


@pytest.mark.slow
def test_each_process_goes_on_with_its_own_random_numbers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_workspace(data, num_panoramas=9, num_validated=3, lengths_differ=True)
    ends = []
    for name, kill_at in (("whole", None), ("killed", 5)):
        config = write_config(data, tmp_path / name, devices=2, stages=["finetune"])
        _train_in_two(config, kill_at=kill_at)
        if kill_at is not None:
            errors = _train_in_two(config, "--resume", "auto")
            assert "random numbers start anew" not in errors
        (last,) = (tmp_path / name / EXPERIMENT).glob("*/finetune/last.ckpt")
        ends.append(read_checkpoint(last))
    whole, resumed = ends
    first, second = (state["torch"] for state in whole["callbacks"]["LastCheckpoint"]["rng"])
    assert not torch.equal(first, second)
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


def make(**training: Any) -> CORAConfig:
    return CORAConfig.model_validate({"training": training})


def test_the_strategy_follows_the_devices() -> None:
    assert pick_strategy(make(), "cpu") == "auto"
    assert type(pick_strategy(make(devices=2), "cpu")).__name__ == "DDPStrategy"
    assert pick_strategy(make(strategy="ddp"), "cpu") == "auto"
    sharded: Any = pick_strategy(make(strategy="fsdp", devices=2), "cuda")
    assert type(sharded).__name__ == "FSDPStrategy"
    assert sharded._state_dict_type == "full"
    assert count_processes(make(devices=4, num_nodes=2), "cpu") == 8


def test_sharding_needs_gpus(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.strategy 'fsdp' needs GPUs: on a CPU use 'ddp' or 'auto'"):
        pick_strategy(make(strategy="fsdp"), "cpu")
