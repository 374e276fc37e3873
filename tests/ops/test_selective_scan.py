from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cora.bench.gpu.errors import TOLERANCES, excess, relative_errors
from cora.bench.gpu.sequences import ScanCase, random_scan
from cora.errors import KernelUnavailable
from cora.ops import dispatch
from cora.ops import selective_scan as module
from cora.ops.extension import extension_problem
from cora.ops.selective_scan import KEPT_STATES, bidirectional_scan, selective_scan

B, D, N = 2, 3, 4

needs_extension = pytest.mark.skipif(extension_problem() is not None, reason=str(extension_problem()))

IMPLEMENTATIONS = ["reference", pytest.param("cpp", marks=needs_extension)]

# Every size with every other one would take an hour: each one is in several rows, and no two always go together.
CASES = [
    ScanCase(1, 1, 1, 1),
    ScanCase(144, 3, 17, 8),
    ScanCase(144, 1, 1, 64, directions=2),
    ScanCase(144, 63, 1, 1, layout="bdl"),
    ScanCase(2, 257, 17, 64, reverse=True),
    ScanCase(1, 257, 130, 16, directions=2),
    ScanCase(1, 63, 17, 1, directions=2),
    ScanCase(1, 3, 2048, 64, layout="bdl"),
    ScanCase(1, 1, 2048, 16, directions=2),
    ScanCase(1, 63, 2048, 8, reverse=True),
    ScanCase(3, 32, 64, 16, directions=2),
    # So many channels that a GPU's threads would each take more of the work.
    ScanCase(144, 3, 250, 9, directions=2),
    ScanCase(9, 65, 72, 5, directions=2),
    ScanCase(2, 257, 65, 8, directions=2, shared=frozenset({"u", "delta", "z", "B", "C"})),
    ScanCase(2, 63, 17, 16, directions=2, shared=frozenset({"u", "z"})),
    ScanCase(2, 63, 17, 16, options=frozenset()),
    ScanCase(2, 63, 17, 16, options=frozenset({"D"}), reverse=True),
    ScanCase(2, 63, 17, 16, options=frozenset({"z"}), directions=2),
    ScanCase(2, 63, 17, 16, options=frozenset({"delta_bias", "delta_softplus"})),
    *(ScanCase(2, 257, 17, 16, dtype, directions=2) for dtype in (torch.bfloat16, torch.float16)),
    *(ScanCase(144, 3, 17, 1, dtype, layout="bdl") for dtype in (torch.bfloat16, torch.float16)),
    *(ScanCase(1, 63, 130, 64, dtype, reverse=True) for dtype in (torch.bfloat16, torch.float16)),
]


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan() -> Iterator[None]:
    """What an implementation allocates and does not write shows: torch fills it with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def make_inputs(length: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return {
        "u": normal(B, D, length),
        "delta": normal(B, D, length),
        "A": -normal(D, N).exp(),
        "B": normal(B, N, length),
        "C": normal(B, N, length),
        "D": normal(D),
        "z": normal(B, D, length),
        "delta_bias": normal(D),
    }


def case_inputs(case: ScanCase) -> dict[str, Tensor]:
    return case.inputs(torch.Generator().manual_seed(0))


def by_definition(inputs: dict[str, Tensor]) -> Tensor:
    """Sum over all earlier positions in scalar arithmetic: the closed form of the recurrence."""
    u, A = inputs["u"], inputs["A"]
    step = torch.log1p((inputs["delta"] + inputs["delta_bias"][:, None]).exp())
    result = torch.zeros_like(u)
    for b in range(B):
        for d in range(D):
            for t in range(u.shape[2]):
                total = float(inputs["D"][d] * u[b, d, t])
                for s in range(t + 1):
                    elapsed = float(step[b, d, s + 1 : t + 1].sum())
                    for n in range(N):
                        decay = math.exp(elapsed * float(A[d, n]))
                        total += float(inputs["C"][b, n, t] * step[b, d, s] * inputs["B"][b, n, s] * u[b, d, s]) * decay
                gate = float(inputs["z"][b, d, t])
                result[b, d, t] = total * gate / (1 + math.exp(-gate))
    return result


@pytest.mark.parametrize("length", [1, 2, 7])
def test_scan_is_the_closed_form_of_the_recurrence(length: int) -> None:
    inputs = make_inputs(length)
    torch.testing.assert_close(selective_scan(**inputs, delta_softplus=True), by_definition(inputs))


def test_without_options_there_is_no_skip_gate_or_bias() -> None:
    inputs = make_inputs(5)
    plain = {name: inputs[name] for name in ("u", "delta", "A", "B", "C")}
    plain["delta"] = plain["delta"].abs()
    neutral = {"D": torch.zeros(D, dtype=torch.float64), "delta_bias": torch.zeros(D, dtype=torch.float64)}
    torch.testing.assert_close(selective_scan(**plain), selective_scan(**plain, **neutral))


@pytest.mark.parametrize(
    "case",
    [
        ScanCase(2, 4, 3, 4, layout="bdl"),
        ScanCase(2, 4, 3, 2, reverse=True),
        ScanCase(2, 3, 2, 3, directions=2, shared=frozenset({"z", "B"})),
        ScanCase(1, 3, 2, 3, options=frozenset()),
    ],
    ids=str,
)
def test_gradients_of_the_reference_are_right(case: ScanCase) -> None:
    inputs = {name: each.double().requires_grad_() for name, each in case_inputs(case).items()}

    def scan(*values: Tensor) -> Tensor:
        return case.call(dict(zip(inputs, values, strict=True)), "reference")

    assert torch.autograd.gradcheck(scan, list(inputs.values()))


@needs_extension
@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiled_scan_and_every_gradient(case: ScanCase) -> None:
    errors = relative_errors(case, "cpp")
    assert excess(case, errors) <= 1, errors


@needs_extension
def test_compiled_scans_of_random_sizes() -> None:
    generator = torch.Generator().manual_seed(0)
    for seed in range(30):
        case = random_scan(generator)
        errors = relative_errors(case, "cpp", seed=seed)
        assert excess(case, errors) <= 1, (case, errors)


@needs_extension
def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every input in turn, one of its gradient's elements is off by a tenth of their size."""
    case = ScanCase(2, 33, 17, 8)
    right, names = torch.autograd.grad, list(case_inputs(case))
    for wrong in range(len(names)):

        def grad(y: Tensor, leaves: list[Tensor], y_grad: Tensor, wrong: int = wrong) -> list[Tensor]:
            gradients = list(right(y, leaves, y_grad))
            if y.dtype == torch.float32:
                gradients[wrong] = gradients[wrong].clone()
                gradients[wrong].view(-1)[-1] += gradients[wrong].square().mean().sqrt() / 10
            return gradients

        with monkeypatch.context() as patch:
            patch.setattr(torch.autograd, "grad", grad)
            errors = relative_errors(case, "cpp")
        assert [name for name in names if errors[name] > TOLERANCES[torch.float32].gradient] == [names[wrong]]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_reversed_is_flipped(impl: Any) -> None:
    case = ScanCase(2, 37, 17, 5)
    inputs = case_inputs(case)
    flipped = {name: each.flip(1) if each.ndim == 3 else each for name, each in inputs.items()}
    expected = case.call(flipped, impl).flip(1)
    torch.testing.assert_close(replace(case, reverse=True).call(inputs, impl), expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_both_directions_are_two_scans(impl: Any) -> None:
    case = ScanCase(2, 70, 17, 5, directions=2, shared=frozenset({"z", "B"}))
    inputs = case_inputs(case)
    both = case.call(inputs, impl)
    assert both.shape == (2, 70, 2, 17)
    for way, reverse in enumerate((False, True)):
        own = {name: each[:, :, way] if each.ndim == 4 else each for name, each in inputs.items()}
        own |= {name: inputs[name][way] for name in ("A", "D", "delta_bias")}
        single = selective_scan(**own, delta_softplus=True, layout="bld", reverse=reverse, impl=impl)
        torch.testing.assert_close(both[:, :, way], single)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_layouts_are_transposed(impl: Any) -> None:
    case = ScanCase(2, 33, 17, 5)
    inputs = case_inputs(case)
    turned = {name: each.transpose(1, 2) if each.ndim == 3 else each for name, each in inputs.items()}
    y = replace(case, layout="bdl").call(turned, impl)
    assert y.shape == (2, 17, 33)
    torch.testing.assert_close(y.transpose(1, 2), case.call(inputs, impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_strided_and_expanded_inputs(impl: Any) -> None:
    case = ScanCase(3, 20, 17, 5)
    inputs = {name: each[:1].expand_as(each) if each.ndim == 3 else each for name, each in case_inputs(case).items()}
    expected = case.call({name: each.contiguous() for name, each in inputs.items()}, impl)
    torch.testing.assert_close(case.call(inputs, impl), expected)
    strange = dict(inputs)
    # Every other channel; a part of wider rows; every other position; states before positions; rows that are apart.
    strange["u"] = torch.full((3, 20, 34), math.nan)[:, :, ::2].copy_(inputs["u"])
    strange["delta"] = torch.full((3, 20, 40), math.nan)[:, :, 3:20].copy_(inputs["delta"])
    strange["z"] = torch.full((3, 40, 17), math.nan)[:, ::2].copy_(inputs["z"])
    strange["B"] = inputs["B"].transpose(1, 2).contiguous().transpose(1, 2)
    strange["A"] = torch.full((17, 9), math.nan)[:, :5].copy_(inputs["A"])
    torch.testing.assert_close(case.call(strange, impl), expected)
    gradients = []
    for values in (inputs, strange):
        leaves = [each.detach().requires_grad_() for each in values.values()]
        y = case.call(dict(zip(values, leaves, strict=True)), impl)
        # The gradient of a sum is one number in all places, without memory of its own.
        gradients.append(torch.autograd.grad(y.sum(), leaves))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_low_precision_is_computed_in_float32_and_returned_as_it_came(impl: Any) -> None:
    inputs = make_inputs(16, torch.float32)
    low = {name: value if name == "A" else value.bfloat16() for name, value in inputs.items()}
    result = selective_scan(**low, delta_softplus=True, impl=impl)
    assert result.dtype == torch.bfloat16
    exact = selective_scan(**{name: value.float() for name, value in low.items()}, delta_softplus=True, impl=impl)
    torch.testing.assert_close(result, exact.bfloat16())


def curve(name: str, x: Tensor) -> Tensor:
    """Return what the compiled scan makes of a function of x, float32[n]: by one position or two of its own."""
    one, row = torch.ones_like(x).view(1, 1, -1), x.view(1, 1, -1)
    skip = {"A": -torch.ones(len(x), 1), "layout": "bld", "impl": "cpp"}
    unit, nothing = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    if name == "softplus":
        y = selective_scan(one, row, B=unit, C=unit, delta_softplus=True, **skip)  # type: ignore[arg-type]
    elif name == "silu":
        y = selective_scan(one, one, B=nothing, C=unit, D=torch.ones_like(x), z=row, **skip)  # type: ignore[arg-type]
    else:
        inputs, steps = torch.cat([one, 0 * one], dim=1), torch.cat([one, -row], dim=1)
        y = selective_scan(inputs, steps, B=torch.ones(1, 2, 1), C=torch.ones(1, 2, 1), **skip)[:, 1:]  # type: ignore[arg-type]
    return y.flatten()


@needs_extension
@pytest.mark.parametrize(("name", "low"), [("exp", -80.0), ("softplus", -80.0), ("silu", -80.0)])
def test_functions_are_as_exact_as_float32_allows(name: str, low: float) -> None:
    x = torch.cat([torch.linspace(low, -low, 100_003), torch.linspace(-2, 2, 100_003), torch.tensor([0.0])])
    if name == "exp":
        x = x[x <= 0]
    truth = {"exp": torch.exp, "softplus": torch.nn.functional.softplus, "silu": torch.nn.functional.silu}[name]
    exact = truth(x.double())
    # x log2(e) is rounded to float32, which an exponential multiplies by x; below 1e-35 results are not normal numbers.
    bound = 5e-7 + 1.2e-7 * x.clamp(max=0).abs()
    is_normal = exact.abs() > 1e-35
    error = ((curve(name, x).double() - exact).abs() / exact.abs().clamp(min=1e-300))[is_normal]
    assert (error <= bound[is_normal]).all(), float(error.max())
    near = x[is_normal].abs() <= 2
    assert error[near].max() < 5e-7
    assert curve("exp", torch.zeros(1)) == 1


@needs_extension
def test_values_beyond_every_bound() -> None:
    inf, nan = math.inf, math.nan
    assert curve("exp", torch.tensor([-1e30, -200.0])).abs().max() < 2**-125
    assert curve("softplus", torch.tensor([-1e30, -inf, -200.0])).abs().max() < 2**-125
    assert curve("softplus", torch.tensor([1e30, inf])).tolist() == pytest.approx([1e30, inf])
    assert curve("silu", torch.tensor([1e30, -1e3])).tolist() == pytest.approx([1e30, 0], rel=1e-6, abs=1e-30)
    for name in ("exp", "softplus", "silu"):
        assert curve(name, torch.tensor([nan])).isnan().all()


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_result_does_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    case = ScanCase(9, 65, 130, 8, dtype, directions=2)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            inputs = {name: each.requires_grad_() for name, each in case_inputs(case).items()}
            y = case.call(inputs, "cpp")
            results.append([y, *torch.autograd.grad(y.square().sum(), list(inputs.values()))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, another) for one, another in zip(results[0], other, strict=True))


@needs_extension
@pytest.mark.parametrize(("batch", "channels"), [(0, 3), (2, 0)])
def test_nothing_in_is_nothing_out(batch: int, channels: int) -> None:
    case = ScanCase(batch, 4, channels, 2, directions=2)
    inputs = {name: each.requires_grad_() for name, each in case_inputs(case).items()}
    y = case.call(inputs, "cpp")
    assert y.shape == (batch, 4, 2, channels)
    gradients = torch.autograd.grad(y.sum(), list(inputs.values()))
    assert all(not gradient.any() for gradient in gradients)


@needs_extension
@pytest.mark.parametrize("options", [{"D", "z", "delta_bias", "delta_softplus"}, set()], ids=["all", "none"])
@pytest.mark.parametrize("keep_states", [True, False])
def test_the_operation_is_a_good_torch_citizen(options: set[str], keep_states: bool) -> None:
    inputs = case_inputs(ScanCase(2, 35, 17, 5, directions=2, options=frozenset(options)))
    if keep_states:
        inputs = {name: each.requires_grad_() for name, each in inputs.items()}
    tensors = [inputs.get(name) for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    arguments = (*tensors, "delta_softplus" in options, [False, True], keep_states, "cpp")
    torch.library.opcheck(torch.ops.cora.selective_scan.default, arguments)
    if keep_states:
        y, states = torch.ops.cora.selective_scan(*arguments)
        plain = [None if each is None else each.detach() for each in tensors]
        arguments = (y.detach(), *plain, *arguments[8:10], states.detach(), "cpp")
        torch.library.opcheck(torch.ops.cora.selective_scan_adjoint.default, arguments)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_it_compiles_without_a_break(impl: Any) -> None:
    case = ScanCase(2, 9, 5, 3, directions=2)
    inputs = {name: each.requires_grad_() for name, each in case_inputs(case).items()}

    def loss(inputs: dict[str, Tensor]) -> Tensor:
        return (case.call(inputs, impl) * 2).square().mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(inputs)
    expected = loss(inputs)
    torch.testing.assert_close(compiled, expected)
    leaves = list(inputs.values())
    torch.testing.assert_close(torch.autograd.grad(compiled, leaves), torch.autograd.grad(expected, leaves))


@needs_extension
def test_states_are_kept_only_for_gradients() -> None:
    inputs = case_inputs(ScanCase(1, 40, 3, 2, directions=2))
    tensors = [inputs[name] for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    for keep_states, rows in ((True, 4), (False, 0)):
        _, states = torch.ops.cora.selective_scan_forward(*tensors, True, [0, 1], keep_states)
        assert states.shape == (rows, KEPT_STATES["cpp"][1] * 2)
        assert not states.isnan().any()


@pytest.mark.parametrize(
    ("name", "shape"),
    [("u", (B, D)), ("delta", (B, D, 4)), ("A", (D + 1, N)), ("B", (B, N + 1, 5)), ("D", (D, 1)), ("z", (B, D, 4))],
)
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    inputs = make_inputs(5)
    inputs[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"^{name} must be"):
        selective_scan(**inputs)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("u", (2, 5, 3, 4), r"^u must be float\[B, L, 2, E\] with L >= 1, got torch.float32 \[2, 5, 3, 4\]"),
        ("u", (2, 0, 2, 4), "^u must be"),
        ("A", (4, 3), r"^A must be float\[2, 4, K\], got \[4, 3\]"),
        ("delta", (2, 5, 2, 3), r"^delta must be float\[2, 5, 2, 4\], got \[2, 5, 2, 3\]"),
        ("C", (2, 4, 3), r"^C must be float\[2, 5, 2, 3\], got \[2, 4, 2, 3\]"),
        ("D", (4,), r"^D must be float\[2, 4\], got \[4\]"),
        ("delta_bias", (2, 3), r"^delta_bias must be float\[2, 4\], got \[2, 3\]"),
    ],
)
def test_shapes_that_do_not_fit_two_directions_are_refused(name: str, shape: tuple[int, ...], words: str) -> None:
    inputs = case_inputs(ScanCase(2, 5, 4, 3, directions=2))
    with pytest.raises(ValueError, match=words):
        bidirectional_scan(**{**inputs, name: torch.zeros(shape)})


def test_other_wrong_arguments_are_refused() -> None:
    inputs = make_inputs(5)
    with pytest.raises(ValueError, match="layout must be 'bdl' or 'bld', got 'lbd'"):
        selective_scan(**inputs, layout="lbd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^u must be float.*got torch.int64"):
        selective_scan(**{**inputs, "u": inputs["u"].long()})


@needs_extension
def test_compiled_operation_checks_its_input() -> None:
    inputs = case_inputs(ScanCase(2, 5, 4, 3, directions=2))
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")

    def forward(reverse: list[int], **changed: Tensor) -> tuple[Tensor, Tensor]:
        tensors = [{**inputs, **changed}[name] for name in names]
        result: tuple[Tensor, Tensor] = torch.ops.cora.selective_scan_forward(*tensors, True, reverse, True)
        return result

    y, states = forward([0, 1])
    for changed in (
        {"u": inputs["u"].double()},
        {"u": inputs["u"][0]},
        {"delta": inputs["delta"].bfloat16()},
        {"delta": inputs["delta"][:, :4]},
        {"z": inputs["z"].transpose(1, 3).contiguous().transpose(1, 3)},
        {"A": inputs["A"].double()},
        {"A": inputs["A"].transpose(0, 1)},
        {"B": inputs["B"][..., :2]},
        {"C": inputs["C"].bfloat16()},
        {"D": inputs["D"][0]},
        {"delta_bias": inputs["delta_bias"].T},
    ):
        with pytest.raises(RuntimeError, match="selective_scan: "):
            forward([0, 1], **changed)
    with pytest.raises(RuntimeError, match="every direction"):
        forward([0])
    tensors = [inputs[name] for name in names]
    with pytest.raises(RuntimeError, match="states are not those"):
        torch.ops.cora.selective_scan_backward(y, *tensors, True, [0, 1], states[1:])
    with pytest.raises(RuntimeError, match="gradient of y"):
        torch.ops.cora.selective_scan_backward(y[:1], *tensors, True, [0, 1], states)


def test_implementations_that_are_missing_or_cannot_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelUnavailable, match="its kernels take float32, bfloat16 and float16"):
        selective_scan(**make_inputs(2), impl="cuda")
    with pytest.raises(KernelUnavailable, match=r"selective_scan: implementation 'cuda' cannot .* on cpu"):
        selective_scan(**make_inputs(2, torch.float32), impl="cuda")
    with pytest.raises(KernelUnavailable, match="kernels for cuda take up to 64 states a channel, not 65"):
        module._choose("cuda", "cuda", torch.float32, 65)
    with pytest.raises(KernelUnavailable, match="no implementation 'fast'"):
        selective_scan(**make_inputs(2), impl="fast")  # type: ignore[arg-type]
    monkeypatch.setenv(dispatch.IMPL_VARIABLE, "cuda")
    with pytest.raises(KernelUnavailable, match="'cuda'"):
        selective_scan(**make_inputs(2, torch.float32))
    selective_scan(**make_inputs(2, torch.float32), impl="reference")


@needs_extension
def test_auto_takes_the_compiled_one_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.IMPL_VARIABLE, raising=False)
    case = ScanCase(1, 9, 5, 3)
    inputs = case_inputs(case)
    assert torch.equal(case.call(inputs, "auto"), case.call(inputs, "cpp"))
    double = {name: each.double() for name, each in inputs.items()}
    assert torch.equal(case.call(double, "auto"), case.call(double, "reference"))
