"""The script for GPU machines runs here too: it checks what there is, and counts what it could not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cora.bench.gpu import run as script


def test_it_checks_and_counts(tmp_path: Path) -> None:
    out = tmp_path / "results" / "here.json"
    result = CliRunner().invoke(script.main, ["--out", str(out), "--cases", "6", "--rounds", "2"])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["passed"]
    assert {"date", "commit", "device", "driver", "torch", "triton", "python"} <= set(report["environment"])
    checked = {check["impl"]: check for check in report["checks"]}
    assert "reference" in checked
    for check in checked.values():
        assert 0 < check["bilinear_lsb"] < 0.2
        assert check["cases"] == 6
    if torch.cuda.is_available():
        assert report["num_skipped"] == 0
        assert report["timings"]
    else:
        assert report["num_skipped"] == len(report["skipped"]) == 2 + len(script.TIMED)
        assert report["timings"] == []


def test_a_wrong_implementation_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = script.erp_to_views

    def shifted(panorama: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        return right(panorama.roll(1, dims=1) if panorama.dtype == torch.uint8 else panorama, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(script, "erp_to_views", shifted)
    result = CliRunner().invoke(script.main, ["--out", str(tmp_path / "here.json"), "--cases", "3"])
    assert result.exit_code == 1
    assert not json.loads((tmp_path / "here.json").read_text())["passed"]
