"""The convolutional resampler against its formula, written over channels first."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cora.errors import ConfigError
from cora.model.resampler import ResamplerModule
from cora.model.resampler.c_abstractor import SpatialBlock, nearest_grid

GRID = (4, 6)


def build(**options: object) -> ResamplerModule:
    torch.manual_seed(0)
    settings = {"type": "c_abstractor", "hidden_dim": 16, "depth": 2, "kernel_size": 3, **options}
    return ResamplerModule(settings, input_dim=12, latent_dim=10).eval()


def block_formula(weights: dict[str, Tensor], grid: Tensor) -> Tensor:
    """Return the block of float[N, C, H, W], for an odd kernel."""
    kernel = weights["dwconv.weight"]
    local = F.conv2d(grid, kernel, weights["dwconv.bias"], padding=kernel.shape[-1] // 2, groups=grid.shape[1])
    deviation = (local.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    local = (local - local.mean(1, keepdim=True)) / deviation
    local = local * weights["norm.weight"][:, None, None] + weights["norm.bias"][:, None, None]
    wide = F.silu(F.conv2d(local, weights["expand.weight"][..., None, None], weights["expand.bias"]))
    squeezed = F.relu(wide.mean((2, 3)) @ weights["se.squeeze.weight"].T + weights["se.squeeze.bias"])
    excited = torch.sigmoid(squeezed @ weights["se.excite.weight"].T + weights["se.excite.bias"])
    wide = wide * excited[..., None, None]
    return grid + F.conv2d(wide, weights["contract.weight"][..., None, None], weights["contract.bias"])


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_a_block_is_the_formula(kernel_size: int) -> None:
    torch.manual_seed(1)
    block = SpatialBlock(8, kernel_size=kernel_size, expand=3, se_reduction=4)
    grid = torch.randn(2, 4, 5, 8)
    expected = block_formula(block.state_dict(), grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(block(grid), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_queries", [0, 6])
def test_the_whole_is_the_formula(num_queries: int) -> None:
    module, tokens = build(num_queries=num_queries), torch.randn(2, 24, 12)
    weights = module.resampler.state_dict()

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}

    hidden = F.linear(tokens, *part("input_proj.").values()).transpose(1, 2).reshape(2, 16, *GRID)
    for index in (0, 1):
        hidden = block_formula(part(f"stage1.{index}."), hidden)
    if num_queries:
        hidden = F.avg_pool2d(hidden, 2)
    for index in (0, 1):
        hidden = block_formula(part(f"stage2.{index}."), hidden)
    flat = F.layer_norm(hidden.flatten(2).transpose(1, 2), (16,))
    expected = F.linear(F.silu(F.linear(flat, *part("readout.0.").values())), *part("readout.2.").values())
    torch.testing.assert_close(module(tokens, GRID), expected, rtol=1e-4, atol=1e-5)


def test_the_grid_matters() -> None:
    module, tokens = build(), torch.randn(1, 24, 12)
    assert not torch.allclose(module(tokens, (4, 6)), module(tokens, (6, 4)))


def test_number_of_layers_of_the_perceptron() -> None:
    assert [len(build(mlp_depth=depth).resampler.readout) for depth in (1, 2, 3)] == [1, 3, 5]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("num_queries", "grid", "expected"),
    [
        (144, (16, 16), (12, 12)),
        (64, (27, 27), (8, 8)),
        (32, (8, 16), (4, 8)),
        (32, (16, 8), (8, 4)),
        (6, (4, 6), (2, 3)),
        (1, (3, 3), (1, 1)),
        (35, (5, 7), (5, 7)),
    ],
)
def test_pooled_grids_have_the_shape_of_the_view(
    num_queries: int, grid: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert nearest_grid(num_queries, grid) == expected
    assert build(num_queries=num_queries).num_tokens(grid) == num_queries


@pytest.mark.parametrize(("num_queries", "grid"), [(7, (16, 16)), (36, (5, 7)), (400, (16, 16)), (3, (8, 8))])
def test_a_number_that_is_no_grid_is_refused(num_queries: int, grid: tuple[int, int]) -> None:
    with pytest.raises(
        ConfigError, match=f"num_queries of 'c_abstractor' is {num_queries}, which is no grid over views"
    ):
        build(num_queries=num_queries).output_grid(grid)


def test_whole_blocks_are_left_out_in_training_only() -> None:
    torch.manual_seed(2)
    block, grid = SpatialBlock(8, kernel_size=3, expand=2, se_reduction=4, drop_path=0.25), torch.randn(400, 2, 2, 8)
    change = block.eval()(grid) - grid
    dropped = block.train()(grid) - grid
    left_out = (dropped == 0).flatten(1).all(dim=1)
    assert 60 <= int(left_out.sum()) <= 140
    torch.testing.assert_close(dropped[~left_out], change[~left_out] / 0.75, rtol=1e-4, atol=1e-5)


def test_the_probability_rises_from_block_to_block() -> None:
    module = build(drop_path=0.3).resampler
    rates = [block.drop_path for stage in (module.stage1, module.stage2) for block in stage]  # type: ignore[union-attr]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def module_by_module(block: SpatialBlock, grid: Tensor) -> Tensor:
    local = block.norm(block.dwconv(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    inner = F.silu(block.expand(local))
    weights = block.se.excite(block.se.squeeze(inner.mean(dim=(1, 2))).relu()).sigmoid()
    result: Tensor = grid + block.contract(inner * weights[:, None, None])
    return result


@pytest.mark.parametrize("kernel_size", [1, 3, 7, 9])
def test_block_is_its_modules_one_after_the_other(kernel_size: int) -> None:
    torch.manual_seed(kernel_size)
    block = SpatialBlock(17, kernel_size=kernel_size, expand=2, se_reduction=4)
    with torch.no_grad():
        for parameter in block.norm.parameters():
            parameter.add_(torch.randn_like(parameter))
    grid = torch.randn(2, 5, 4, 17, requires_grad=True)
    leaves = [grid, *block.parameters()]
    change = torch.randn_like(grid)
    ours, expected = block(grid), module_by_module(block, grid)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(
        torch.autograd.grad(ours, leaves, change), torch.autograd.grad(expected, leaves, change), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_block_keeps_the_names_of_its_parameters() -> None:
    names = set(SpatialBlock(8, kernel_size=3, expand=2, se_reduction=4).state_dict())
    parts = ("dwconv", "norm", "expand", "se.squeeze", "se.excite", "contract")
    assert names == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
