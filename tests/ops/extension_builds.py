"""Builds of the extension other than the installed one, for tests; as a program, it runs tests with one of them.

    python extension_builds.py EXTENSION FACE [the arguments of pytest]

The installed extension takes AVX2 where the processor has it, and CUDA kernels only where there is a GPU. Built for
any processor, or with the CUDA kernels running on the CPU, the same tests cover the other code.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build(target: Path, sources: Sequence[Path], *flags: str) -> Path:
    """Return the extension made of some sources."""
    import torch

    include, library = (Path(torch.__file__).parent / name for name in ("include", "lib"))
    command = ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-fopenmp", "-Wno-psabi", *flags]
    # Headers of torch may be stood in for by those that the flags name.
    command += ["-isystem", str(include), "-isystem", sysconfig.get_path("include")]
    command += ["-o", str(target), *(each for path in sources for each in ("-x", "c++", str(path)))]
    # `-x none`: what follows is a library again.
    command += ["-x", "none", f"-L{library}", "-ltorch_cpu", "-ltorch", "-lc10"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return target


def run_with(extension: Path, face: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this file as a program: the tests of `cpp` with what an extension has in its place, the kernels of a face."""
    command = [sys.executable, __file__, str(extension), face, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "CORA_OP_IMPL"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


def load(extension: Path) -> None:
    """Make an extension the one that `cora.ops` finds."""
    import torch  # noqa: F401 - it brings the libraries that the extension needs

    spec = importlib.util.spec_from_file_location("cora._C", extension)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["cora._C"] = importlib.util.module_from_spec(spec)


if __name__ == "__main__":
    import pytest

    load(Path(sys.argv[1]))
    from cora.ops import selective_scan

    selective_scan.KEPT_STATES["cpp"] = selective_scan.KEPT_STATES[sys.argv[2]]
    sys.exit(pytest.main(sys.argv[3:]))
