"""The script for GPU machines runs here too: it checks what there is, and counts what it could not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cora.bench.gpu import grids, kernel_runs, views
from cora.bench.gpu import run as script
from cora.bench.gpu.errors import Case


def test_it_checks_and_counts(tmp_path: Path) -> None:
    out = tmp_path / "results" / "here.json"
    result = CliRunner().invoke(script.main, ["--out", str(out), "--cases", "6", "--rounds", "2"])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["passed"]
    assert {"date", "commit", "device", "driver", "torch", "triton", "python"} <= set(report["environment"])
    checked = {(check["op"], check["impl"]): check for check in report["checks"]}
    operations = {"erp_to_views", *kernel_runs.OPERATIONS}
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
        timed = len(views.TIMED) + len(kernel_runs.TIMED)
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


def test_a_wrong_kernel_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = grids.depthwise_norm

    def less_bias(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *others: Any, impl: Any) -> Any:
        return right(x, weight, bias if x.dtype == torch.float64 or bias is None else 0.99 * bias, *others, impl=impl)

    monkeypatch.setattr(grids, "depthwise_norm", less_bias)
    assert not kernel_runs.check("depthwise_norm", "reference", "cpu", 3, 0)["passed"]


# Sizes that a CPU does at once.
SMALL = {
    "selective_scan": {"batch": 2, "length": 9, "channels": 6},
    "causal_conv1d": {"batch": 2, "length": 9, "channels": 6},
    "depthwise_norm": {"views": 2, "height": 5, "width": 9, "channels": 17},
}


@pytest.mark.parametrize("case", kernel_runs.TIMED, ids=lambda case: case.name)
def test_peers_do_the_same(case: Case) -> None:
    small: Any = replace(case, dtype=torch.float32, **SMALL[case.operation])  # type: ignore[type-var]
    inputs = small.inputs(torch.Generator().manual_seed(0))
    peers = kernel_runs.peers_of(case.operation)
    assert peers
    for peer in peers.values():
        torch.testing.assert_close(peer(inputs), small.call(inputs, "reference"))


def test_every_operation_is_timed() -> None:
    assert {case.operation for case in kernel_runs.TIMED} == set(kernel_runs.OPERATIONS)
