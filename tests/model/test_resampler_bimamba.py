"""The bidirectional Mamba resampler against the mixer of transformers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from cora.model.resampler import ResamplerModule
from cora.model.resampler.bimamba import BiMambaLayer
from cora.model.resampler.mamba import MambaBlock

MAMBA_KEYS = (
    "A_log D in_proj.weight conv1d.weight conv1d.bias x_proj.weight dt_proj.weight dt_proj.bias out_proj.weight"
)


def build(**options: object) -> ResamplerModule:
    torch.manual_seed(0)
    settings = {"type": "bimamba", "hidden_dim": 16, "num_layers": 2, "d_state": 4, **options}
    return ResamplerModule(settings, input_dim=12, latent_dim=10).eval()


def mixer(block: MambaBlock, dim: int, d_state: int, d_conv: int, expand: int) -> MambaMixer:
    """Return transformers' mixer with the weights of a block; strict: its names are those of mamba_ssm.Mamba."""
    config = MambaConfig(
        hidden_size=dim,
        state_size=d_state,
        conv_kernel=d_conv,
        expand=expand,
        num_hidden_layers=1,
        use_bias=False,
        use_conv_bias=True,
    )
    theirs = MambaMixer(config, layer_idx=0).eval()
    theirs.load_state_dict(block.state_dict())
    return theirs


def shake(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_bimamba_sees_both_sides() -> None:
    module, tokens = build(), torch.randn(1, 9, 12)
    changed = tokens.clone()
    changed[:, 4] += 1
    moved = (module(tokens, (3, 3)) - module(changed, (3, 3))).abs().amax(dim=-1)[0] > 1e-7
    assert moved.all()


def test_bimamba_norm_order_and_dropout_do_something() -> None:
    tokens = torch.randn(1, 9, 12)
    assert not torch.allclose(build()(tokens, (3, 3)), build(norm_first=False)(tokens, (3, 3)))
    dropping = build(dropout=0.5).train()
    assert not torch.equal(dropping(tokens, (3, 3)), dropping(tokens, (3, 3)))
    steady = build(dropout=0.0).train()
    assert torch.equal(steady(tokens, (3, 3)), steady(tokens, (3, 3)))


@pytest.mark.parametrize(("d_conv", "expand"), [(4, 2), (3, 1), (2, 3), (7, 2)])
def test_mamba_block_is_the_block_of_transformers(d_conv: int, expand: int) -> None:
    torch.manual_seed(1)
    ours = MambaBlock(24, d_state=6, d_conv=d_conv, expand=expand)
    shake(ours)
    hidden = torch.randn(2, 11, 24)
    theirs = mixer(ours, 24, 6, d_conv, expand)
    torch.testing.assert_close(ours(hidden), theirs(hidden), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_layer_is_two_blocks_of_transformers_one_on_the_flipped_sequence(norm_first: bool) -> None:
    torch.manual_seed(2)
    layer = BiMambaLayer(24, d_state=6, d_conv=4, expand=2.0, norm_first=norm_first)
    shake(layer)
    hidden = torch.randn(2, 37, 24, requires_grad=True)
    before, after = (mixer(block, 24, 6, 4, 2) for block in (layer.forward_block, layer.backward_block))

    def expected(tokens: Tensor) -> Tensor:
        normed = layer.norm(tokens) if norm_first else tokens
        total = tokens + (before(normed) + after(normed.flip(1)).flip(1)) / 2
        result: Tensor = total if norm_first else layer.norm(total)
        return result

    torch.testing.assert_close(layer(hidden), expected(hidden), rtol=1e-5, atol=1e-5)
    weights = torch.randn(2, 37, 24)
    (ours,) = torch.autograd.grad((layer(hidden) * weights).sum(), hidden)
    (theirs,) = torch.autograd.grad((expected(hidden) * weights).sum(), hidden)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_weights_are_those_of_transformers() -> None:
    torch.manual_seed(3)
    layer = BiMambaLayer(24, d_state=6, d_conv=4, expand=2.0)
    shake(layer)
    hidden, weights = torch.randn(2, 19, 24), torch.randn(2, 19, 24)
    after = mixer(layer.backward_block, 24, 6, 4, 2)
    (layer(hidden) * weights).sum().backward()
    (after(layer.norm(hidden).flip(1)).flip(1) / 2 * weights).sum().backward()
    ours = dict(layer.backward_block.named_parameters())
    for name, parameter in after.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-4, atol=1e-4)


def test_weights_are_named_and_shaped_as_in_the_research_code() -> None:
    """Its blocks are `mamba_ssm.Mamba(d_model=16, d_state=4, d_conv=4, expand=2)`."""
    shapes = {name: tuple(value.shape) for name, value in build(num_layers=2).resampler.state_dict().items()}
    blocks = {
        f"blocks.{i}.{way}_block.{key}" for i in (0, 1) for way in ("forward", "backward") for key in MAMBA_KEYS.split()
    }
    norms = {f"blocks.{i}.norm.{key}" for i in (0, 1) for key in ("weight", "bias")}
    outer = {f"{name}.{key}" for name in ("input_proj", "final_norm", "output_proj") for key in ("weight", "bias")}
    assert set(shapes) == blocks | norms | outer
    assert {key: shapes[f"blocks.0.forward_block.{key}"] for key in MAMBA_KEYS.split()} == {
        "A_log": (32, 4),
        "D": (32,),
        "in_proj.weight": (64, 16),
        "conv1d.weight": (32, 1, 4),
        "conv1d.bias": (32,),
        "x_proj.weight": (9, 32),
        "dt_proj.weight": (32, 1),
        "dt_proj.bias": (32,),
        "out_proj.weight": (16, 32),
    }


def test_mamba_block_starts_as_published() -> None:
    block = MambaBlock(32, d_state=5)
    assert torch.allclose(-block.A_log.exp(), -torch.arange(1.0, 6.0).expand(64, -1))
    step = nn.functional.softplus(block.dt_proj.bias)
    assert step.min() >= 0.001 * 0.99
    assert step.max() <= 0.1 * 1.01
    assert block.dt_proj.weight.abs().max() <= 1 / math.sqrt(2)
    assert block.in_proj.bias is None
    assert block.out_proj.bias is None
