from __future__ import annotations

import pytest
import torch

from cora.bench import crop
from cora.errors import CoraError


def test_rows_have_all_columns_and_quality_is_measured() -> None:
    threads = torch.get_num_threads()
    rows = crop.run([(128, 12)], rounds=2)
    assert torch.get_num_threads() == threads
    assert all(tuple(row) == crop.COLUMNS for row in rows)
    quality = {row["candidate"]: row["psnr_db"] for row in rows}
    assert quality["cora reference antialias"] > quality["cora reference bilinear"] + 7
    # The plain samplers agree with each other: they differ from the truth by the same aliasing.
    for other in ("torch grid_sample bilinear", "py360convert"):
        assert quality[other] == pytest.approx(quality["cora reference bilinear"], abs=0.3)
    assert all(row["median_ms"] > 0 for row in rows)
    assert min(row["times_fastest"] for row in rows) == 1
    assert {row["note"] for row in rows} == {""}


def test_nothing_is_timed_when_implementations_disagree() -> None:
    picture = torch.zeros(1, 3, 2, 2)
    with pytest.raises(CoraError, match="differ by"):
        crop._check_agreement({"cora cpp bilinear": picture, "cora reference bilinear": picture + 0.01})
