"""A run that is killed again and again, and resumed each time, learns what an unbroken one learns."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from tiny_runs import STAGES, read_batches, read_events, start, write_config, write_workspace

from cora.training.checkpoints import read_checkpoint
from cora.training.curves import read_metrics


def _progress(record: Path) -> int:
    return sum(event["event"] in ("batch", "train") for event in read_events(record))


def _kill_after(config: Path, record: Path, *, batches: int, jitter: float) -> bool:
    """Resume the run and kill it that many batches and seconds later; return False where it ended before."""
    before = _progress(record)
    process = start(config, "--resume", "auto", record=record)
    try:
        while process.poll() is None and _progress(record) < before + batches:
            time.sleep(0.002)
        time.sleep(jitter)
        if process.poll() is None:
            process.kill()
    finally:
        process.kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, -9), errors
    return process.returncode == -9


def _check_killed_run(folder: Path, *, epochs: int, num_kills: int, seed: int) -> dict[str, int]:
    write_workspace(folder, num_panoramas=9, num_validated=3, lengths_differ=True)
    stages = {name: {"batch_size": 2, "lr": 1e-3, "epochs": epochs, "accumulate_grad_batches": 2} for name in STAGES}
    stages["vision"]["vision_trainable_blocks"] = 1
    configs = [write_config(folder, folder / name, stage_configs=stages) for name in ("whole", "killed")]
    whole_record, record = folder / "whole.jsonl", folder / "killed.jsonl"
    process = start(configs[0], record=whole_record)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    whole = read_batches(whole_record)

    draw = random.Random(seed)
    counts = Counter(batches=len(whole))
    seen_parts: set[tuple[Path, int]] = set()
    most = int(1.5 * len(whole) / num_kills)
    while counts["kills"] < num_kills:
        was_killed = _kill_after(configs[1], record, batches=draw.randint(0, most), jitter=draw.uniform(0.0, 0.06))
        assert was_killed, f"the run ended after {counts['kills']} kills"
        counts["kills"] += 1
        runs = list((folder / "killed/small").glob("*"))
        parts = {(path, path.stat().st_mtime_ns) for run in runs for path in run.glob("*/*.part")}
        counts["kills while writing"] += bool(parts - seen_parts)
        seen_parts |= parts
        for run in runs:
            for checkpoint in run.glob("*/*.ckpt"):
                read_checkpoint(checkpoint)
                counts["checkpoints read"] += 1
    process = start(configs[1], "--resume", "auto", record=record)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors

    (run,) = (folder / "killed/small").glob("*")
    (whole_run,) = (folder / "whole/small").glob("*")
    killed = read_batches(record)
    assert killed.keys() == whole.keys()
    done = [event for event in read_events(record) if event["event"] == "batch"]
    counts["batches done again"] = len(done) - len(killed)
    for key, event in whole.items():
        assert killed[key]["samples"] == event["samples"], key
        assert killed[key]["loss"] == pytest.approx(event["loss"], rel=1e-5), key
    for stage in STAGES:
        for epoch in range(epochs):
            seen = [item for key, event in killed.items() if key[:2] == (stage, epoch) for item in event["samples"]]
            assert len(seen) == len(set(seen)) == (9 if stage == "vision" else 18)
        expected, found = read_metrics(whole_run / stage / "metrics.csv"), read_metrics(run / stage / "metrics.csv")
        assert expected.keys() == found.keys()
        for name, points in expected.items():
            assert [step for step, _ in found[name]] == [step for step, _ in points], (stage, name)
            values = [value for _, value in points]
            assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-4, abs=1e-6), (stage, name)
    states = [json.loads((path / "stage_state.json").read_text()) for path in (whole_run, run)]
    for stage in STAGES:
        assert states[1][stage]["checkpoint"] == states[0][stage]["checkpoint"]
        assert states[1][stage]["best_metric"] == pytest.approx(states[0][stage]["best_metric"], rel=1e-5)
        assert (run / states[1][stage]["checkpoint"]).is_file()
    differences = [abs(killed[key]["loss"] - event["loss"]) for key, event in whole.items()]
    counts["losses that differ at all"] = sum(item > 0 for item in differences)
    return dict(counts)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.abuse(17, 18)
def test_twenty_kills(tmp_path: Path) -> None:
    counts = _check_killed_run(tmp_path, epochs=5, num_kills=20, seed=2)
    print(counts)  # noqa: T201 - the numbers of this run, shown with -s
    assert counts["kills"] == 20
