"""The resampler that changes the width only."""

from __future__ import annotations

import torch

from cora.model.resampler import ResamplerModule


def test_value_is_a_linear_layer_or_nothing() -> None:
    tokens = torch.randn(2, 6, 12)
    narrowing = ResamplerModule({"type": "identity"}, input_dim=12, latent_dim=10)
    weights = narrowing.resampler.state_dict()
    expected = tokens @ weights["proj.weight"].T + weights["proj.bias"]
    torch.testing.assert_close(narrowing(tokens, (2, 3)), expected)
    same = ResamplerModule({"type": "identity"}, input_dim=12, latent_dim=12)
    assert same(tokens, (2, 3)) is tokens
    assert not list(same.parameters())
