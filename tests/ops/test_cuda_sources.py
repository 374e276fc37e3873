"""The CUDA sources compile against the headers of whatever torch is installed; no GPU is needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NVCC = shutil.which("nvcc")


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not on the PATH")
def test_cuda_sources_compile(repository: Path, tmp_path: Path) -> None:
    import torch

    include = Path(torch.__file__).parent / "include"
    sources = sorted((repository / "csrc" / "cuda").glob("*.cu"))
    assert sources
    for source in sources:
        command = [str(NVCC), "-std=c++20", "-arch=sm_80", "-c", str(source), "-o", str(tmp_path / "object.o")]
        result = subprocess.run([*command, "-isystem", str(include)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
