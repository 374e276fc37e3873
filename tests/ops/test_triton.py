"""The Triton kernels: right under the interpreter, and compilable for three generations of GPUs without one."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

POINTERS = {"texels": "*u8", "taps": "*i32", "weights": "*i16", "shifts": "*i32"}
STRIDES = ("batch_stride", "view_stride", "channel_stride")
FACTORS = tuple(f"{kind}_{colour}" for kind in ("scale", "offset") for colour in ("red", "green", "blue"))


def test_kernels_give_the_reference_values() -> None:
    # The interpreter is chosen when triton is imported, so it has a process of its own.
    program = Path(__file__).with_name("triton_interpreter.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("CORA_OP_IMPL", None)
    result = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=False, env=environment, cwd="/"
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert int(result.stdout) > 60


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_sampling_compiles_ahead_of_time(capability: int, kind: str) -> None:
    from cora.triton_kernels.sample_views import sample_views_kernel

    sizes = dict.fromkeys(("height", "width", "pixels", "views", "samples", *STRIDES), "i32")
    signature = {**POINTERS, "out": f"*{kind}", **sizes, **dict.fromkeys(FACTORS, "fp32")}
    assert "sample_views_kernel" in assembly(sample_views_kernel, signature, capability)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_halving_compiles_ahead_of_time(capability: int) -> None:
    from cora.triton_kernels.sample_views import halve_kernel

    sizes = dict.fromkeys(("count", "first_row", "wanted", "rows", "columns"), "i32")
    signature = {"source": "*u8", "target": "*u8", **sizes}
    assert "halve_kernel" in assembly(halve_kernel, signature, capability)


def assembly(kernel: object, signature: dict[str, str], capability: int) -> str:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(fn=kernel, signature={**signature, "block": "constexpr"}, constexprs={"block": 128})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True})
    assert f"sm_{capability}" in compiled.asm["ptx"]
    assert len(compiled.asm["cubin"]) > 1000
    return str(compiled.asm["ptx"])
