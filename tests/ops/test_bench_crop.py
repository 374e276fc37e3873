from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cora.bench import charts, crop, peers, preprocess, scene, timing
from cora.errors import CoraError
from cora.ops.erp_to_views import erp_to_views


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        # It would change the memory of this process for good.
        patch.setattr(crop, "reuse_memory", lambda: False)
        result = crop.run([64, 128], [12], rounds=2, scene_width=256)
    assert torch.get_num_threads() == threads
    return result


def test_rows_have_all_columns_and_quality_is_measured(rows: list[dict[str, Any]]) -> None:
    assert [(row["source_width"], row["antialias"]) for row in rows] == [
        (64, True),
        (64, False),
        (128, True),
        (128, False),
    ]
    assert all(tuple(row) == crop.COLUMNS for row in rows)
    smooth, plain = rows[2:]
    assert smooth["psnr_db"] > plain["psnr_db"] + 3
    assert plain["max_lsb"] < 0.1
    assert smooth["max_lsb"] < 1.5
    for row in rows:
        assert 0 < row["p25_ms"] <= row["ms"] <= row["p75_ms"]
        assert row["floor_ms"] > 0


def test_a_peer_that_is_missing_leaves_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crop, "reuse_memory", lambda: False)
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    (row, _) = crop.run([64], [8], rounds=1)
    assert row["vs_cv2"] is row["vs_py360"] is row["vs_research"] is row["research_psnr_db"] is None
    assert row["vs_grid_sample"] > 0
    assert row["vs_one_thread"] is None


def test_peers_cut_the_same_views() -> None:
    """What is compared must be the same work: all agree on a smooth picture, to their own precision."""
    source = scene.make_source(64, 64)
    smooth = torch.nn.functional.avg_pool2d(source.permute(2, 0, 1)[None].float(), 9, 1, 4)[0].byte().permute(1, 2, 0)
    smooth = smooth.contiguous()
    expected = erp_to_views(smooth, crop.VIEWS, size=(16, 16), mean=crop.MEAN, std=crop.STD, antialias=False)
    candidates = peers.make_peers(smooth, crop.VIEWS, 16)
    assert set(candidates) == {"grid_sample"} | {"py360", "research"} | ({"cv2"} if find_spec("cv2") else set())
    for name, cut in candidates.items():
        pictures = cut()
        assert pictures.shape == expected.shape
        assert pictures.dtype == torch.float32
        # The research path blurs; OpenCV's maps have 5 bits after the point.
        assert float((pictures - expected).abs().mean()) < (0.03 if name == "research" else 0.01), name


def test_nothing_is_timed_when_implementations_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(source: torch.Tensor, size: int, antialias: bool, impl: str) -> torch.Tensor:
        return torch.zeros(8, 3, size, size) + (0.01 if impl == "reference" else 0)

    monkeypatch.setattr(crop, "reuse_memory", lambda: False)
    monkeypatch.setattr(crop, "_cut", cut)
    with pytest.raises(CoraError, match="differ by"):
        crop.run([64], [8], rounds=1)


def test_sources_are_area_means_of_one_scene() -> None:
    large, small = scene.make_source(128, 128), scene.make_source(128, 64)
    assert large.shape == (64, 128, 3)
    means = large.float().view(32, 2, 64, 2, 3).mean(dim=(1, 3))
    assert float((means - small).abs().max()) <= 0.5
    assert torch.equal(large, scene.make_source(128, 128))
    with pytest.raises(CoraError, match="width 48"):
        scene.make_source(128, 48)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("reuse", [True, False])
def test_memory_is_reused(reuse: bool) -> None:
    """In a process of its own, where after a first call no page is asked for again."""
    program = (
        "import numpy as np\nfrom cora.bench.timing import reuse_memory, take_turns\n"
        f"assert not {reuse} or reuse_memory()\n"
        "print(take_turns({'fill': lambda: np.full(1 << 26, 1, np.uint8)}, 5)['fill'].faults)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    pages = (1 << 26) / resource.getpagesize()
    assert (float(result.stdout) < pages / 100) == reuse


def test_candidates_take_turns() -> None:
    calls: list[str] = []
    timings = timing.take_turns({"a": lambda: calls.append("a"), "b": lambda: time.sleep(0.002)}, rounds=3)
    # Two calls at first, and two in each round: one that warms the caches, one that counts.
    assert len(calls) == 2 + 2 * 3
    assert timings["b"].p25 >= 2
    assert timings["a"].median < timings["b"].median


def test_slow_first_call_does_not_make_a_candidate_slow() -> None:
    waits = iter([0.11, *[0.0] * 3])
    timing.take_turns({"a": lambda: time.sleep(next(waits))}, rounds=1)
    assert next(waits, None) is None


def test_chart_is_a_picture(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    charts.draw_crop(rows, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.width > 400


def test_preprocessing_is_timed_from_the_bytes_on(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "reuse_memory", lambda: False)
        rows = preprocess.run([128, 256], [16], rounds=2)
    assert [(row["source_width"], row["antialias"]) for row in rows] == [
        (w, a) for w in (128, 256) for a in (True, False)
    ]
    for row in rows:
        assert tuple(row) == preprocess.COLUMNS
        assert 0 < row["decode_ms"] < row["ms"] * 1.5
        assert row["vs_research"] > 0
        assert row["psnr_db"] > row["research_psnr_db"] - 1
        assert row["jpeg_bytes"] > 1000
    charts.draw_preprocess(rows, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 5000
