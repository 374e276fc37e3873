"""cora dry-run says what a run would need and changes nothing; cora export gives what the trainer exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from tiny_models import make_panorama, write_towers

from cora.cli.main import main
from cora.config.manager import ConfigManager
from cora.training.trainer import CORATrainer, TrainingResult

STAGES = ("vision", "resampler", "finetune")
NUM_ROWS = 4


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="cora")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a whole small run: towers, panoramas, table and configuration."""
    folder = tmp_path_factory.mktemp("dry")
    vision, language = write_towers(folder)
    lines = ["url,query,annotation"]
    for seed in range(NUM_ROWS):
        make_panorama(seed).save(folder / f"{seed}.png")
        lines.append(f"{seed}.png,What is ahead?,number {seed}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    stage = {"epochs": 1, "batch_size": 2, "lr": 1e-2, "accumulate_grad_batches": 1}
    document: dict[str, Any] = {
        "models": {
            "vision_name": str(vision),
            "language_model_name": str(language),
            "resampler_type": "mlp",
            "resampler_config": {"hidden_dim": 32},
            "latent_dimension": 24,
        },
        "image_processing": {"crop_strategy": "e2p", "image_size": 32},
        "training": {"accelerator": "cpu", "stage_configs": {name: dict(stage) for name in STAGES}},
        "lora": {"use_lora": True, "rank": 4, "dropout": 0.0, "target_modules": ["q_proj"]},
        "data": {"csv_train": str(folder / "train.csv")},
        "output": {"runs_dir": str(folder / "runs")},
    }
    document["training"]["stage_configs"]["vision"]["vision_trainable_blocks"] = 1
    path = folder / "small.json"
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def run(config: Path) -> TrainingResult:
    return CORATrainer(ConfigManager.load(config), show_progress=False).train()


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def test_a_dry_run_reports_every_stage(config: Path) -> None:
    result = invoke("dry-run", "--config", config, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["unknown_keys"] == []
    vision, _, finetune = document["stages"]
    assert [stage["stage"] for stage in document["stages"]] == list(STAGES)
    assert [stage["error"] for stage in document["stages"]] == [None] * 3
    views = vision["tokens"]["views"]
    assert vision["shapes"] == {"pixel_values": [2, views, 3, 32, 32]}
    assert set(finetune["shapes"]) == {"pixel_values", "input_ids", "labels", "position_ids", "attention_mask"}
    assert finetune["tokens"]["longest_sequence"] == finetune["shapes"]["input_ids"][1]
    assert finetune["tokens"]["longest_sequence"] > finetune["tokens"]["vision_per_panorama"] > 0
    assert [set(stage["trained"]) for stage in document["stages"]] == [
        {"vision", "resampler"},
        {"resampler", "projector"},
        {"resampler", "projector", "language_model"},
    ]
    for stage in document["stages"]:
        memory = stage["memory"]
        assert memory["optimizer"] == 2 * memory["gradients"] > 0
        parts = ("parameters", "gradients", "optimizer", "activations")
        assert memory["total"] == sum(memory[part] for part in parts)
        assert stage["losses"]["loss"] > 0
    # float32, and the adapters of rank 4 on one layer of two blocks, 32 wide with two heads of 32.
    adapters = 2 * 4 * (32 + 64)
    assert finetune["trained"]["language_model"] == adapters
    assert not (config.parent / "runs").exists()


def test_activations_grow_with_the_batch(config: Path) -> None:
    measured = []
    for batch_size in (1, 2, 4):
        options = [f"training.stage_configs.resampler.batch_size={batch_size}", "training.stages=[resampler]"]
        result = invoke("dry-run", "--config", config, "--json", *(f"--set={option}" for option in options))
        measured.append(json.loads(result.stdout)["stages"][0]["memory"]["activations"])
    assert measured[1] - measured[0] == pytest.approx((measured[2] - measured[0]) / 3, rel=0.1)
    assert measured[1] > 1.5 * measured[0]


def test_the_text_says_how_each_number_came_about(config: Path) -> None:
    result = invoke("dry-run", "--config", config)
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if line.startswith("stage")] == [
        f"stage {name}: runs" for name in STAGES
    ]
    for word in ("counted", "computed", "measured", "MiB", "pixel_values 2x"):
        assert word in result.stdout


def test_unknown_keys_come_with_the_nearest_known_one(config: Path, tmp_path: Path) -> None:
    document = json.loads(config.read_text())
    document["training"]["gradient_clip"] = 1.0
    document["training"]["stages"] = ["resampler"]
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(document))
    result = invoke("dry-run", "--config", path, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["unknown_keys"] == [
        {"key": "training.gradient_clip", "hint": "(did you mean 'gradient_clip_val'?)"}
    ]
    assert invoke("dry-run", "--config", path, "--strict").exit_code == 2


@pytest.mark.parametrize(
    ("override", "failing", "message"),
    [
        ("training.stage_configs.finetune.max_text_length=3", ["finetune"], "max_text_length"),
        ("image_processing.overlap_ratio=0.0", list(STAGES), "stride_views"),
        ("training.stage_configs.vision.vicreg_loss_weight=0.0", ["vision"], "no loss"),
        ("lora.target_modules=[no_proj]", ["finetune"], "no_proj"),
        ("data.csv_train=null", list(STAGES), "no training data"),
    ],
)
def test_a_stage_that_would_not_run_is_an_error(config: Path, override: str, failing: list[str], message: str) -> None:
    result = invoke("dry-run", "--config", config, "--json", "--set", override)
    assert result.exit_code == 2
    assert message in result.stderr
    if result.stdout:
        stages = json.loads(result.stdout.splitlines()[-1])["stages"]
        assert [stage["stage"] for stage in stages if stage["error"]] == failing


def test_a_missing_picture_is_found(config: Path, tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    table.write_text("url,query,annotation\nnone.png,What is ahead?,nothing\n")
    result = invoke("dry-run", "--config", config, "--set", f"data.csv_train={table}")
    assert result.exit_code == 2
    assert "none.png" in result.stderr


def test_an_exported_checkpoint_is_what_the_trainer_exports(run: TrainingResult, tmp_path: Path) -> None:
    best = next((run.run_dir / "finetune").glob("finetune-*.ckpt"))
    result = invoke("export", best, tmp_path / "export", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "checkpoint": str(best),
        "export_dir": str(tmp_path / "export"),
    }
    ours, theirs = weights(tmp_path / "export"), weights(run.export_dir)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0, msg=name)
    for name in ("config.json", "processor_config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "export" / name).read_text() == (run.export_dir / name).read_text()


def test_an_earlier_stage_exports_what_was_trained_until_then(run: TrainingResult, tmp_path: Path) -> None:
    result = invoke("export", run.run_dir / "vision" / "last.ckpt", tmp_path / "export")
    assert result.exit_code == 0, result.output
    ours, final = weights(tmp_path / "export"), weights(run.export_dir)
    changed = {name.split(".")[0] for name, value in final.items() if not torch.equal(ours[name], value)}
    assert changed == {"resampler", "projector", "language_model"}


def test_what_cannot_be_exported_is_one_line(run: TrainingResult, tmp_path: Path) -> None:
    last = run.run_dir / "finetune" / "last.ckpt"
    for checkpoint, directory, message in [
        (tmp_path / "no.ckpt", tmp_path / "out", "no such checkpoint file"),
        (last, run.run_dir, "is not empty"),
        (run.run_dir / "config.yaml", tmp_path / "out", "none of the run's stages"),
    ]:
        result = invoke("export", checkpoint, directory)
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_its_earlier_stages_is_refused(run: TrainingResult, tmp_path: Path) -> None:
    stage = tmp_path / "run" / "finetune"
    stage.mkdir(parents=True)
    (stage / "last.ckpt").write_bytes((run.run_dir / "finetune" / "last.ckpt").read_bytes())
    assert "there is no config.yaml" in invoke("export", stage / "last.ckpt", tmp_path / "out").stderr
    (stage.parent / "config.yaml").write_bytes((run.run_dir / "config.yaml").read_bytes())
    assert "stage 'vision', which comes before it" in invoke("export", stage / "last.ckpt", tmp_path / "out").stderr
