"""Builds the C++ (and, where possible, CUDA) extension and places the two top-level folders inside the package.

Everything else is declared in pyproject.toml.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# vLLM imports any top-level package called `triton_kernels` as OpenAI's, so ours may only exist below `cora`.
NESTED = {"cora.triton_kernels": "triton_kernels", "cora.bench": "bench"}

# Portable code only: faster instructions are chosen at run time, so that a wheel runs on any processor.
# The kernels hand vectors to functions that are all inlined, so their calling convention (psabi) does not matter.
CXX_FLAGS = ["-O3", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wno-psabi"]
NVCC_FLAGS = ["-O3", "--expt-relaxed-constexpr", "-lineinfo"]


def list_packages() -> list[str]:
    packages = find_packages(str(ROOT), include=["cora", "cora.*"])
    for name, folder in NESTED.items():
        packages += [name, *(f"{name}.{child}" for child in find_packages(str(ROOT / folder)))]
    return packages


def extension() -> dict[str, Any]:
    """Return setup()'s arguments for `cora._C`; none when there are no sources."""
    cpp = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.cpp"))
    if not cpp:
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    except ImportError as error:
        raise SystemExit(
            "cora: building needs torch: install it first, then this with --no-build-isolation (`make env` does both)"
        ) from error

    cuda = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
    nvcc = CUDA_HOME is not None and shutil.which("nvcc", path=str(Path(CUDA_HOME) / "bin")) is not None
    flags: dict[str, list[str]] = {"cxx": CXX_FLAGS}
    if cuda and torch.version.cuda and nvcc:
        flags["cxx"] = [*CXX_FLAGS, "-DCORA_WITH_CUDA"]
        flags["nvcc"] = NVCC_FLAGS
        kind, sources = CUDAExtension, cpp + cuda
    else:
        kind, sources = CppExtension, cpp
        if torch.version.cuda and cuda:
            logging.warning("cora: torch has CUDA but there is no nvcc: the CUDA kernels are not built")
    built = kind(
        "cora._C", sources, include_dirs=[str(ROOT / "csrc")], extra_compile_args=flags, extra_link_args=["-fopenmp"]
    )
    return {"ext_modules": [built], "cmdclass": {"build_ext": BuildExtension}}


setup(
    packages=list_packages(),
    package_dir=NESTED,
    package_data={
        "cora": [
            "py.typed",
            "processors/templates/*.jinja",
            "evaluation/report/assets/*",
            "serving/assets/*",
            "viewer/*.js",
        ]
    },
    **extension(),
)
