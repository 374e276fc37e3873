"""Which number format a run computes in, and that it says why."""

from __future__ import annotations

import logging

import pytest
import torch

from cora.config.schema import CORAConfig
from cora.errors import ConfigError
from cora.training.build import pick_precision


def pick(precision: str, accelerator: str) -> str:
    return str(pick_precision(CORAConfig.model_validate({"training": {"precision": precision}}), accelerator))


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [("fp32", "32-true"), ("bf16", "bf16-mixed"), ("fp16", "16-mixed"), ("bf16-true", "bf16-true"), (32, "32")],
)
def test_a_format_is_taken_as_asked(wanted: str, chosen: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert pick(wanted, "cuda") == chosen
    assert caplog.messages == [f"precision {chosen}: training.precision is '{wanted}'"]


@pytest.mark.parametrize(
    ("accelerator", "has_bfloat16", "chosen"),
    [("cpu", True, "32-true"), ("cuda", True, "bf16-mixed"), ("cuda", False, "16-mixed")],
)
def test_auto_follows_the_device(
    accelerator: str, has_bfloat16: bool, chosen: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert pick("auto", accelerator) == chosen
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("wanted", ["fp16", "16-mixed", 16])
def test_a_cpu_has_no_scaled_float16(wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.precision '.*' needs a GPU: on a CPU use 'bf16' or 'fp32'"):
        pick(wanted, "cpu")
