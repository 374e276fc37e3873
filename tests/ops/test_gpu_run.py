"""The script for GPU machines runs here too: it checks what there is, and counts what it could not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cora.bench.gpu import run as script
from cora.bench.gpu import sequence_runs, views
from cora.bench.gpu.sequences import ConvCase, ScanCase


def test_it_checks_and_counts(tmp_path: Path) -> None:
    out = tmp_path / "results" / "here.json"
    result = CliRunner().invoke(script.main, ["--out", str(out), "--cases", "6", "--rounds", "2"])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["passed"]
    assert {"date", "commit", "device", "driver", "torch", "triton", "python"} <= set(report["environment"])
    checked = {(check["op"], check["impl"]): check for check in report["checks"]}
    operations = {"erp_to_views", *sequence_runs.OPERATIONS}
    assert {(operation, "reference") for operation in operations} <= set(checked)
    for (operation, _), check in checked.items():
        assert check["cases"] == 6
        if operation == "erp_to_views":
            assert 0 < check["bilinear_lsb"] < 0.2
        else:
            assert 0 < check["of_tolerance"] <= 1
    if torch.cuda.is_available():
        assert report["num_skipped"] == 0
        assert report["timings"]
    else:
        timed = len(views.TIMED) + len(sequence_runs.TIMED)
        assert report["num_skipped"] == len(report["skipped"]) == 2 * len(operations) + timed
        assert report["timings"] == []


def test_a_wrong_implementation_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = views.erp_to_views

    def shifted(panorama: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        return right(panorama.roll(1, dims=1) if panorama.dtype == torch.uint8 else panorama, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(views, "erp_to_views", shifted)
    result = CliRunner().invoke(script.main, ["--out", str(tmp_path / "here.json"), "--cases", "3"])
    assert result.exit_code == 1
    assert not json.loads((tmp_path / "here.json").read_text())["passed"]


@pytest.mark.parametrize("case", sequence_runs.TIMED, ids=sequence_runs.name_of)
def test_peers_of_the_sequences_do_the_same(case: ScanCase | ConvCase) -> None:
    small = replace(case, batch=2, length=9, channels=6, dtype=torch.float32)
    inputs = small.inputs(torch.Generator().manual_seed(0))
    peers = sequence_runs._scan_peers() if isinstance(small, ScanCase) else sequence_runs._conv_peers()
    assert peers
    for peer in peers.values():
        torch.testing.assert_close(peer(inputs), small.call(inputs, "reference"))
