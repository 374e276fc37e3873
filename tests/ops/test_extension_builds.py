"""The tests of the compiled operations again, with code that the installed extension does not run on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from extension_builds import ROOT, build, run_with

from cora.ops.extension import extension_problem

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(extension_problem() is not None, reason=str(extension_problem())),
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on the PATH"),
]

OPERATIONS = ("selective_scan", "causal_conv1d", "depthwise_norm")
TESTS = [f"tests/ops/test_{operation}.py" for operation in OPERATIONS]


def test_code_for_any_processor(tmp_path: Path) -> None:
    extension = build(tmp_path / "portable.so", sorted((ROOT / "csrc").glob("*.cpp")), "-DCORA_PORTABLE")
    result = run_with(extension, "cpp", *TESTS, "tests/ops/test_erp_to_views.py", "-q", "-p", "no:cacheprovider")
    assert result.returncode == 0, result.stdout[-3000:]
    assert "passed" in result.stdout


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="a run as it is takes that code")
def test_code_for_avx2_where_there_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    command = [sys.executable, "-m", "pytest", *TESTS, "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "passed" in result.stdout


def test_cuda_kernels_on_the_cpu(tmp_path: Path) -> None:
    """Their source as it is, with a stand-in for CUDA that takes the threads of a block in turns."""
    kernels = [path for each in OPERATIONS for path in sorted((ROOT / "csrc" / "cuda").glob(f"{each}*.cu"))]
    stand_in = f"-I{Path(__file__).with_name('cuda_on_host')}"
    extension = build(tmp_path / "cuda.so", [ROOT / "csrc" / "module.cpp", *kernels], stand_in, "-Wno-unknown-pragmas")
    # Nothing of the CPU's: its threads, what it keeps, and infinite step sizes, which its exponentials bound.
    left_out = "threads or states_are_kept or beyond_every_bound"
    options = ["-q", "-p", "no:cacheprovider", "-k", f"not ({left_out})"]
    result = run_with(extension, "cuda", *TESTS, *options)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "passed" in result.stdout
