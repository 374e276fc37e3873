"""The CUDA sources compile against the headers of whatever torch is installed; no GPU is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

NVCC = shutil.which("nvcc")
SOURCES = sorted(path.name for path in (Path(__file__).parents[2] / "csrc" / "cuda").glob("*.cu"))


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not on the PATH")
@pytest.mark.parametrize("source", SOURCES)
def test_cuda_sources_compile(source: str, repository: Path, tmp_path: Path) -> None:
    import torch

    include = Path(torch.__file__).parent / "include"
    # One run for three generations: the host side is compiled once.
    targets = [f"-gencode=arch=compute_{version},code=sm_{version}" for version in (80, 90, 100)]
    command = [str(NVCC), "-std=c++20", *targets, "--threads=0", "-c", str(repository / "csrc" / "cuda" / source)]
    command += ["-o", str(tmp_path / "object.o"), "-Werror=all-warnings", "--expt-relaxed-constexpr"]
    result = subprocess.run([*command, "-isystem", str(include)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]


def test_every_operation_has_a_cuda_source() -> None:
    operations = {"causal_conv1d", "depthwise_norm", "halve", "sample_views", "selective_scan"}
    assert {re.sub(r"(_forward|_backward)?\.cu$", "", name) for name in SOURCES} == operations
