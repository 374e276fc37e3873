"""The Triton kernels: right under the interpreter, and compilable for three generations of GPUs without one."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
    assert int(result.stdout) > 120


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


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_depthwise_norm_compiles_ahead_of_time(capability: int, kind: str) -> None:
    from cora.triton_kernels import depthwise_norm

    sizes = dict.fromkeys(("tokens", "height", "width", "channels"), "i32")
    strides = dict.fromkeys(("view_stride", "row_stride", "column_stride"), "i32")
    vectors = ("bias", "norm_weight", "norm_bias")
    floats = ("weight", "weight_grad", "factors", "value_grad", *vectors, *(f"{name}_grad" for name in vectors))
    known = {
        **dict.fromkeys(floats, "*fp32"),
        **dict.fromkeys(("x", "y", "normal", "y_grad", "x_grad"), f"*{kind}"),
        **sizes,
        **strides,
    }
    known |= {"eps": "fp32", "parts": "i32"}
    constants = {"size": 7, "has_bias": True, "keep": True, "block": 4, "wide": 1024}
    for name in ("forward_kernel", "norm_backward_kernel", "input_grad_kernel", "weight_grad_kernel"):
        kernel = getattr(depthwise_norm, name)
        signature = {argument: known[argument] for argument in kernel.arg_names if argument in known}
        fixed = {argument: constants[argument] for argument in kernel.arg_names if argument in constants}
        assert name in assembly(kernel, signature, capability, fixed)


def assembly(
    kernel: object, signature: dict[str, str], capability: int, constants: dict[str, object] | None = None
) -> str:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = constants or {"block": 128}
    source = ASTSource(
        fn=kernel, signature={**signature, **dict.fromkeys(constants, "constexpr")}, constexprs=constants
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True})
    assert f"sm_{capability}" in compiled.asm["ptx"]
    assert len(compiled.asm["cubin"]) > 1000
    return str(compiled.asm["ptx"])


SCAN_TENSORS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
SEQUENCES = {"u", "delta", "z", "y", "x", "y_grad", "u_grad", "delta_grad", "z_grad", "x_grad"}


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(("kind", "left_out"), [("fp32", ()), ("bf16", ()), ("fp16", ("D", "z", "delta_bias", "kept"))])
def test_scans_compile_ahead_of_time(capability: int, kind: str, left_out: tuple[str, ...]) -> None:
    from cora.triton_kernels import selective_scan as kernels

    sizes = {"has_softplus": kind != "fp16", "T": kernels.POSITIONS, "E": 16, "K": 16}
    for kernel in (kernels.scan_forward_kernel, kernels.scan_backward_kernel):
        # Without states that the forward scan kept there is no backward one.
        constants = {**sizes, **{name: None for name in left_out if name != "kept" or "y" in kernel.arg_names}}
        check_sequence_kernel(kernel, kind, capability, constants)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(("kind", "width"), [("fp32", 2), ("bf16", 4), ("fp16", 3)])
def test_convolutions_compile_ahead_of_time(capability: int, kind: str, width: int) -> None:
    from cora.triton_kernels import causal_conv1d as kernels

    T, E = kernels.TILE
    constants = {"has_silu": True, "W": width, "T": T, "E": E, **({"bias": None} if width == 3 else {})}
    check_sequence_kernel(kernels.conv_forward_kernel, kind, capability, constants)
    tiles = {"tiles": kernels.TILES_OF_STRIP}
    check_sequence_kernel(kernels.conv_backward_kernel, kind, capability, {**constants, **tiles})


def check_sequence_kernel(kernel: Any, kind: str, capability: int, constants: dict[str, Any]) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = {*SCAN_TENSORS, "weight", "bias", "kept", *(name for name in kernel.arg_names if name.endswith("_grad"))}

    def type_of(name: str) -> Any:
        if name in constants:
            return "constexpr"
        if name.endswith("_strides"):
            return ("i32",) * 3
        return f"*{kind}" if name in SEQUENCES else "*fp32" if name in pointers else "i32"

    source = ASTSource(fn=kernel, signature={name: type_of(name) for name in kernel.arg_names}, constexprs=constants)
    options = {"num_warps": 8, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert f"sm_{capability}" in compiled.asm["ptx"]
    assert len(compiled.asm["cubin"]) > 1000
