from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cora.bench import resampler
from cora.errors import CoraError


@pytest.fixture(autouse=True)
def _keep_memory_and_do_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    # The one would change the memory of this process for good, the other takes minutes.
    monkeypatch.setattr(resampler, "reuse_memory", lambda: False)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def test_rows_have_all_columns() -> None:
    rows = resampler.run(rounds=1, side=2, width=64)
    assert all(tuple(row) == resampler.COLUMNS for row in rows)
    names = [row["case"] for row in rows[::2]]
    assert [row["pass"] for row in rows] == ["forward", "forward+backward"] * len(names)
    assert len(set(names)) == len(names)
    for kind in ("mlp", "bimamba", "perceiver", "qformer", "spatial_pool", "masked_drop", "c_abstractor"):
        assert any(name.startswith(f"resampler {kind} ") for name in names)
    for row in rows:
        assert 0 < row["p25_ms"] <= row["ms"] <= row["p75_ms"]
        assert row["rel_rms"] is None or 0 <= row["rel_rms"] < 1e-5


def test_an_operation_is_compared_with_torch_and_a_module_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    operation, calls = resampler.depthwise_norm, []
    monkeypatch.setattr(resampler, "depthwise_norm", lambda *inputs: calls.append(1) or operation(*inputs))
    own, module = resampler.run(["depthwise_norm 3x3", "norm-linear"], rounds=1, side=2, width=16)[::2]
    assert own["impl"] != "torch"
    # Checked, warmed up and timed, in both passes.
    assert len(calls) >= 6
    assert module["impl"] == "torch"
    assert module["eager_ms"] == module["ms"]
    assert module["vs_eager"] == 1


def test_the_floor_counts_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampler, "product_speed", lambda: 1.0)
    early, late = resampler.run(["projector"], rounds=1, side=4, width=8)[::2]
    # The global view in full, of each of eight views two of four columns.
    assert early["floor_ms"] == late["floor_ms"] == 2 * (16 + 8 * 8) * 8 * 8


def test_wrong_results_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: Tensor, *parameters: Tensor) -> Tensor:
        return x + sum(each.sum() for each in parameters)

    monkeypatch.setattr(resampler, "depthwise_norm", wrong)
    with pytest.raises(CoraError, match="the result is off by"):
        resampler.run(["depthwise_norm 3x3"], rounds=1, side=2, width=16)


def test_unknown_case() -> None:
    with pytest.raises(CoraError, match="no benchmark of resamplers has a name with maxpool"):
        resampler.run(["maxpool"])
