"""Pooling over squares of the grid."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cora.errors import ConfigError
from cora.model.resampler import ResamplerModule


def build(**options: object) -> ResamplerModule:
    torch.manual_seed(0)
    return ResamplerModule({"type": "spatial_pool", **options}, input_dim=6, latent_dim=5)


def without_perceptron(**options: object) -> ResamplerModule:
    module = build(**options)
    module.resampler.proj = nn.Identity()
    return module


def test_a_square_becomes_its_mean_or_its_largest_components() -> None:
    tokens = torch.randn(2, 4 * 6, 6)
    squares = tokens.reshape(2, 2, 2, 3, 2, 6).permute(0, 1, 3, 2, 4, 5).reshape(2, 6, 4, 6)
    torch.testing.assert_close(without_perceptron(pool_size=2)(tokens, (4, 6)), squares.mean(dim=2))
    largest = without_perceptron(pool_size=2, pool_mode="max")(tokens, (4, 6))
    torch.testing.assert_close(largest, squares.amax(dim=2))


def test_conv_is_a_linear_layer_on_the_square() -> None:
    module, tokens = without_perceptron(pool_size=2, pool_mode="conv"), torch.randn(2, 4 * 6, 6)
    squares = tokens.reshape(2, 2, 2, 3, 2, 6).permute(0, 1, 3, 5, 2, 4).reshape(2, 6, 24)
    weights = module.resampler.state_dict()
    expected = squares @ weights["pool.weight"].reshape(6, 24).T + weights["pool.bias"]
    torch.testing.assert_close(module(tokens, (4, 6)), expected, rtol=1e-4, atol=1e-5)


def test_the_perceptron_comes_after() -> None:
    tokens = torch.randn(2, 16, 6)
    pooled = without_perceptron()(tokens, (4, 4))
    module = build()
    torch.testing.assert_close(module(tokens, (4, 4)), module.resampler.proj(pooled))  # type: ignore[operator]
    assert build(depth=3)(tokens, (4, 4)).shape == (2, 1, 5)


@pytest.mark.parametrize(
    ("grid", "latent"), [((16, 16), (4, 4)), ((8, 16), (2, 4)), ((27, 27), (7, 7)), ((5, 3), (2, 1)), ((1, 1), (1, 1))]
)
def test_the_grid_is_divided_and_rounded_up(grid: tuple[int, int], latent: tuple[int, int]) -> None:
    module = build()
    assert (module.output_grid(grid), module.num_tokens(grid)) == (latent, latent[0] * latent[1])
    assert module(torch.randn(1, grid[0] * grid[1], 6), grid).shape == (1, latent[0] * latent[1], 5)


@pytest.mark.parametrize("pool_mode", ["average", "max"])
def test_no_token_of_an_uneven_grid_is_lost(pool_mode: str) -> None:
    tokens = torch.zeros(1, 35, 6, requires_grad=True)
    with torch.no_grad():
        tokens += torch.arange(35)[None, :, None]
    # Of ascending tokens only the last of a cell is the largest; of the mean every token has its part.
    without_perceptron(pool_size=3, pool_mode=pool_mode)(tokens, (5, 7)).sum().backward()
    assert tokens.grad is not None
    seen = tokens.grad[0, :, 0] > 0
    assert seen.all() if pool_mode == "average" else bool(seen[-1])


def test_centres_of_cells_follow_the_view() -> None:
    # Tokens that know their column: the pooled ones know the column in the middle of their cell, to half a token.
    columns = torch.arange(27.0) + 0.5
    tokens = columns.repeat(27)[None, :, None].expand(-1, -1, 6)
    pooled = without_perceptron()(tokens, (27, 27)).reshape(7, 7, 6)[0, :, 0]
    assert (pooled - (torch.arange(7) + 0.5) * 27 / 7).abs().max() <= 0.5


def test_conv_refuses_an_uneven_grid() -> None:
    with pytest.raises(ConfigError, match="multiple of pool_size 4, and a view has 27x28 tokens"):
        build(pool_mode="conv").output_grid((27, 28))
    with pytest.raises(ConfigError, match="'average', 'max' or 'conv'"):
        build(pool_mode="median")
