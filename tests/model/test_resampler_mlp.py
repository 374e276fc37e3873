"""The token-wise resampler against its formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cora.errors import ConfigError
from cora.model.resampler import ResamplerModule

GRID = (3, 5)


def build(**options: object) -> ResamplerModule:
    torch.manual_seed(0)
    return ResamplerModule({"type": "mlp", "hidden_dim": 16, **options}, input_dim=12, latent_dim=10)


@pytest.mark.parametrize("use_ln", [True, False])
def test_value_is_the_formula(use_ln: bool) -> None:
    module, tokens = build(depth=2, use_ln=use_ln), torch.randn(2, 15, 12)
    first, *_, last = module.resampler.mlp  # type: ignore[misc]
    hidden = tokens @ first.weight.T + first.bias
    if use_ln:
        hidden = (hidden - hidden.mean(-1, True)) / (hidden.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = F.gelu(hidden) @ last.weight.T + last.bias
    torch.testing.assert_close(module(tokens, GRID), expected, rtol=1e-4, atol=1e-5)


def test_one_layer_is_linear() -> None:
    module, tokens = build(depth=1), torch.randn(2, 15, 12)
    torch.testing.assert_close(module(2 * tokens, GRID) + module(0 * tokens, GRID), 2 * module(tokens, GRID))


@pytest.mark.parametrize("pool_type", ["avg", "max"])
def test_pooled_tokens_are_those_side_by_side(pool_type: str) -> None:
    module, tokens = build(pool_tokens=5, pool_type=pool_type), torch.randn(2, 15, 12)
    triples = build()(tokens, GRID).reshape(2, 5, 3, 10)
    expected = triples.mean(dim=2) if pool_type == "avg" else triples.amax(dim=2)
    torch.testing.assert_close(module(tokens, GRID), expected)
    assert (module.is_grid, module.output_grid(GRID), module.num_tokens(GRID)) == (False, None, 5)


def test_any_number_of_tokens_can_be_pooled() -> None:
    assert build(pool_tokens=4)(torch.randn(2, 15, 12), GRID).shape == (2, 4, 10)


def test_pooling_to_more_tokens_and_a_pooling_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pool_tokens of 'mlp' is 16, but a view has 3x5 = 15 tokens"):
        build(pool_tokens=16).num_tokens(GRID)
    with pytest.raises(ConfigError, match="does nothing without pool_tokens"):
        build(pool_type="max")
