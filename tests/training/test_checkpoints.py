"""Checkpoints and state files: whole or absent, and nothing in them is run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from cora.errors import CheckpointError
from cora.files import write_json
from cora.training.checkpoints import AtomicCheckpointIO, read_checkpoint, remove_other_best
from cora.training.run_folder import RunFolder


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.arange(3)}, "epoch": 2}, path)
    content = read_checkpoint(path)
    assert content["epoch"] == 2
    assert torch.equal(content["state_dict"]["w"], torch.arange(3))
    assert [item.name for item in path.parent.iterdir()] == ["a.ckpt"]


def test_an_interrupted_write_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def half(content: object, stream: object) -> None:
        stream.write(b"PK half a file")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be written: No space left on device$"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    monkeypatch.undo()
    assert read_checkpoint(path) == {"epoch": 1}


def test_what_does_not_read_back_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(CheckpointError, match="not a loadable checkpoint"):
        AtomicCheckpointIO().save_checkpoint({"epoch": Path("an object")}, path)
    assert read_checkpoint(path) == {"epoch": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["last.ckpt"]


def test_missing_damaged_and_unsafe_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "none.ckpt")
    damaged = tmp_path / "damaged.ckpt"
    torch.save({"w": torch.zeros(1000)}, damaged)
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"damaged\.ckpt: not a loadable checkpoint"):
        read_checkpoint(damaged)

    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    unsafe = tmp_path / "unsafe.ckpt"
    torch.save(Harmful(), unsafe)
    with pytest.raises(CheckpointError, match="not a loadable checkpoint"):
        read_checkpoint(unsafe)
    unsafe.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CheckpointError, match="not a loadable checkpoint"):
        read_checkpoint(unsafe)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_goes_once_the_next_is_written(tmp_path: Path) -> None:
    files = AtomicCheckpointIO()
    old, new, last = (tmp_path / name for name in ("old.ckpt", "new.ckpt", "last.ckpt"))
    files.save_checkpoint({"epoch": 1}, old)
    files.save_checkpoint({"epoch": 2}, new)
    files.remove_checkpoint(old)
    assert old.exists()
    files.save_checkpoint({"epoch": 2}, last)
    assert sorted(tmp_path.iterdir()) == [last, new]
    assert files.load_checkpoint(last) == {"epoch": 2}


def test_a_run_folder_is_opened_again(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "tiny")
    assert RunFolder.open(run.path).state == run.state
    run.state.completed_stages.append("vision")
    run.state.results["vision"] = {"checkpoint": "vision/a.ckpt", "best_metric": 1.5}
    run.save_state()
    assert RunFolder.open(run.path).state == run.state
    (run.path / "stage_state.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"stage_state\.json cannot be read"):
        RunFolder.open(run.path)


def test_run_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = RunFolder.create("runs", "tiny"), RunFolder.create("runs", "tiny")
    assert first.path.is_absolute()
    assert first.path.parent == second.path.parent == tmp_path / "runs" / "tiny"
    assert [run.path.name[-4:] for run in (first, second)] == ["_001", "_002"]


def test_state_file(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "tiny")
    run.state.current_stage = "vision"
    run.save_state()
    run.state.completed_stages.append("vision")
    run.state.results["vision"] = {"checkpoint": "vision/a.ckpt", "best_metric": 1.5}
    run.save_state()
    content = json.loads((run.path / "stage_state.json").read_text())
    assert content == {
        "completed_stages": ["vision"],
        "current_stage": "vision",
        "vision": {"checkpoint": "vision/a.ckpt", "best_metric": 1.5},
    }
    write_json(tmp_path / "a.json", {"a": 1})
    assert not (tmp_path / "a.json.part").exists()


def test_of_the_best_checkpoints_one_is_left_and_other_files_stay(tmp_path: Path) -> None:
    best, *older = (f"vision-epoch={end}.ckpt" for end in ("01-val_loss=1.5", "00-val_loss=2.25", "02-train_loss=nan"))
    others = ["last.ckpt", "vision-epoch=00-copy.ckpt", "vision-epoch=00-val_loss=2.25.ckpt.part", "metrics.csv"]
    for name in (best, *older, *others):
        (tmp_path / name).touch()
    remove_other_best(tmp_path / best)
    assert {path.name for path in tmp_path.iterdir()} == {best, *others}
