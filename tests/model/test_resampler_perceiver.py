"""The resampler of learned latents against the attention of torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cora.model.resampler import ResamplerModule
from cora.model.resampler.perceiver import PerceiverAttention


def build(**options: object) -> ResamplerModule:
    torch.manual_seed(0)
    settings = {"type": "perceiver", "num_latents": 5, "heads": 2, "dim_head": 8, "depth": 2, **options}
    return ResamplerModule(settings, input_dim=16, latent_dim=10)


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(1)
    ours = PerceiverAttention(16, 2, 8)
    theirs = nn.MultiheadAttention(16, 2, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.to_q.weight, ours.to_kv.weight]))
        theirs.out_proj.weight.copy_(ours.to_out.weight)
    media, latents = torch.randn(3, 7, 16), torch.randn(3, 5, 16)
    normed = F.layer_norm(latents, (16,))
    keys = torch.cat([F.layer_norm(media, (16,)), normed], dim=1)
    torch.testing.assert_close(ours(media, latents), theirs(normed, keys, keys)[0], rtol=1e-5, atol=1e-6)


def test_the_whole_is_its_layers_in_turn() -> None:
    module, tokens = build().resampler, torch.randn(3, 6, 16)
    latents = module.latents.expand(3, -1, -1)  # type: ignore[operator]
    for layer in module.layers:  # type: ignore[union-attr]
        latents = latents + layer.attention(tokens, latents)
        _, wide, _, narrow = layer.feed_forward
        latents = latents + F.gelu(F.layer_norm(latents, (16,)) @ wide.weight.T) @ narrow.weight.T
    expected = module.proj(F.layer_norm(latents, (16,)))  # type: ignore[operator]
    torch.testing.assert_close(module(tokens, (2, 3)), expected, rtol=1e-5, atol=1e-6)


def test_order_of_tokens_does_not_matter() -> None:
    module, tokens = build(), torch.randn(1, 6, 16)
    torch.testing.assert_close(module(tokens, (2, 3)), module(tokens.flip(1), (2, 3)))


def test_sizes_follow_the_options() -> None:
    module = build(num_latents=3, ff_mult=2, heads=4, dim_head=6, depth=1)
    assert module(torch.randn(1, 6, 16), (2, 3)).shape == (1, 3, 10)
    weights = module.resampler.state_dict()
    assert weights["layers.0.feed_forward.1.weight"].shape == (32, 16)
    assert weights["layers.0.attention.to_kv.weight"].shape == (48, 16)
    assert (module.is_grid, module.output_grid((2, 3)), module.num_tokens((2, 3))) == (False, None, 3)
