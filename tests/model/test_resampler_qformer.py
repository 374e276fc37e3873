"""The Q-Former against the one of transformers (BLIP-2)."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel

from cora.model.resampler import ResamplerModule


def build(**options: object) -> ResamplerModule:
    torch.manual_seed(0)
    settings = {"type": "qformer", "num_query_tokens": 5, "num_hidden_layers": 2, "num_attention_heads": 4, **options}
    return ResamplerModule(settings, input_dim=16, latent_dim=10).eval()


def attention_weights(prefix: str, ours: dict[str, Tensor], theirs: str) -> dict[str, Tensor]:
    named = {}
    for kind in ("weight", "bias"):
        for part, value in zip(("query", "key", "value"), ours[f"{prefix}.in_proj_{kind}"].chunk(3), strict=True):
            named[f"{theirs}.attention.{part}.{kind}"] = value
        named[f"{theirs}.output.dense.{kind}"] = ours[f"{prefix}.out_proj.{kind}"]
    return named


def as_blip2(ours: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Return our weights under the names of transformers."""
    named = {f"layernorm.{kind}": ours[f"norm.{kind}"] for kind in ("weight", "bias")}
    for index in range(num_layers):
        layer, theirs = f"layers.{index}", f"encoder.layer.{index}"
        named |= attention_weights(f"{layer}.self_attn", ours, f"{theirs}.attention")
        named |= attention_weights(f"{layer}.multihead_attn", ours, f"{theirs}.crossattention")
        for kind in ("weight", "bias"):
            named[f"{theirs}.attention.output.LayerNorm.{kind}"] = ours[f"{layer}.norm1.{kind}"]
            named[f"{theirs}.crossattention.output.LayerNorm.{kind}"] = ours[f"{layer}.norm2.{kind}"]
            named[f"{theirs}.intermediate_query.dense.{kind}"] = ours[f"{layer}.linear1.{kind}"]
            named[f"{theirs}.output_query.dense.{kind}"] = ours[f"{layer}.linear2.{kind}"]
            named[f"{theirs}.output_query.LayerNorm.{kind}"] = ours[f"{layer}.norm3.{kind}"]
    return named


def test_value_is_that_of_transformers() -> None:
    ours = build().resampler
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    config = Blip2QFormerConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        encoder_hidden_size=16,
        cross_attention_frequency=1,
        vocab_size=1,
    )
    theirs = Blip2QFormerModel(config).eval()
    theirs.load_state_dict(as_blip2(ours.state_dict(), 2))
    tokens = torch.randn(3, 6, 16)
    hidden = theirs(query_embeds=ours.query.expand(3, -1, -1), encoder_hidden_states=tokens).last_hidden_state  # type: ignore[operator]
    torch.testing.assert_close(ours(tokens, (2, 3)), ours.proj(hidden), rtol=1e-4, atol=1e-5)  # type: ignore[operator]


def test_dropout_acts_in_training_only() -> None:
    module, tokens = build(dropout=0.5), torch.randn(1, 6, 16)
    assert torch.equal(module(tokens, (2, 3)), module(tokens, (2, 3)))
    module.train()
    assert not torch.equal(module(tokens, (2, 3)), module(tokens, (2, 3)))
    steady = build(dropout=0.0).train()
    torch.testing.assert_close(steady(tokens, (2, 3)), steady.eval()(tokens, (2, 3)))


def test_it_has_as_many_tokens_as_queries_and_no_grid() -> None:
    module = build(num_query_tokens=3)
    assert (module.is_grid, module.output_grid((2, 3)), module.num_tokens((2, 3))) == (False, None, 3)
