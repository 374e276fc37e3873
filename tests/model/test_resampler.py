from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from cora.errors import ConfigError, RegistryError
from cora.model.resampler import RESAMPLERS, Resampler, ResamplerModule
from cora.model.resampler.mamba import MambaBlock

OPTIONS = {
    "identity": {},
    "mlp": {"hidden_dim": 16, "depth": 3},
    "bimamba": {"hidden_dim": 16, "num_layers": 2, "d_state": 4},
    "perceiver": {"num_latents": 5, "num_heads": 2, "head_dim": 8, "depth": 2},
}


def build(kind: str, **options: object) -> ResamplerModule:
    torch.manual_seed(0)
    return ResamplerModule({"type": kind, **OPTIONS[kind], **options}, input_dim=12, latent_dim=10).eval()


def test_every_registered_resampler_is_tested_here() -> None:
    assert set(RESAMPLERS.names()) == set(OPTIONS)


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_comes_out_is_what_was_promised(kind: str) -> None:
    module = build(kind)
    grid = (3, 5)
    latents = module(torch.randn(2, 15, 12))
    assert latents.shape == (2, module.output_tokens(grid), 10)
    assert module.is_grid == (module.output_grid(grid) is not None)
    if module.is_grid:
        height, width = module.output_grid(grid)  # type: ignore[misc]  # it is a grid
        assert height * width == module.output_tokens(grid)


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    module = build(kind)
    module(torch.randn(2, 15, 12)).square().sum().backward()
    without = [
        name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("kind", OPTIONS)
def test_views_do_not_see_each_other(kind: str) -> None:
    module = build(kind)
    tokens = torch.randn(3, 15, 12)
    torch.testing.assert_close(module(tokens)[1:2], module(tokens[1:2]))


@pytest.mark.parametrize("kind", ["identity", "mlp"])
def test_token_by_token_resamplers_keep_order(kind: str) -> None:
    module, tokens = build(kind), torch.randn(1, 6, 12)
    order = torch.randperm(6)
    torch.testing.assert_close(module(tokens)[:, order], module(tokens[:, order]))


def test_bimamba_sees_both_sides() -> None:
    module, tokens = build("bimamba"), torch.randn(1, 9, 12)
    changed = tokens.clone()
    changed[:, 4] += 1
    moved = (module(tokens) - module(changed)).abs().amax(dim=-1)[0] > 1e-7
    assert moved.all()


def test_bimamba_norm_order_and_dropout_do_something() -> None:
    tokens = torch.randn(1, 9, 12)
    assert not torch.allclose(build("bimamba")(tokens), build("bimamba", norm_first=False)(tokens))
    dropping = build("bimamba", dropout=0.5).train()
    assert not torch.equal(dropping(tokens), dropping(tokens))
    steady = build("bimamba", dropout=0.0).train()
    assert torch.equal(steady(tokens), steady(tokens))


def test_mamba_block_is_the_block_of_transformers() -> None:
    torch.manual_seed(1)
    config = MambaConfig(
        hidden_size=24, state_size=6, conv_kernel=4, expand=2, num_hidden_layers=1, use_bias=False, use_conv_bias=True
    )
    theirs = MambaMixer(config, layer_idx=0).eval()
    ours = MambaBlock(24, d_state=6, d_conv=4, expand=2.0)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    # Strict: the names are those of mamba_ssm.Mamba, which transformers kept.
    theirs.load_state_dict(ours.state_dict())
    hidden = torch.randn(2, 11, 24)
    torch.testing.assert_close(ours(hidden), theirs(hidden), rtol=1e-5, atol=1e-6)


def test_mamba_block_starts_as_published() -> None:
    block = MambaBlock(32, d_state=5)
    assert torch.allclose(-block.A_log.exp(), -torch.arange(1.0, 6.0).expand(64, -1))
    step = nn.functional.softplus(block.dt_proj.bias)
    assert step.min() >= 0.001 * 0.99
    assert step.max() <= 0.1 * 1.01
    assert block.dt_proj.weight.abs().max() <= 1 / math.sqrt(2)
    assert block.in_proj.bias is None
    assert block.out_proj.bias is None


def test_unknown_type_and_option_get_a_suggestion() -> None:
    with pytest.raises(RegistryError, match="did you mean 'bimamba'"):
        ResamplerModule({"type": "bimanba"}, input_dim=4, latent_dim=4)
    with pytest.raises(ConfigError, match=r"'mlp' has no option 'hiden_dim' \(did you mean 'hidden_dim'"):
        ResamplerModule({"type": "mlp", "hiden_dim": 8}, input_dim=4, latent_dim=4)
    with pytest.raises(ConfigError, match=r"resampler\.type is missing"):
        ResamplerModule({}, input_dim=4, latent_dim=4)


@pytest.mark.parametrize(
    "options", [{"type": "mlp", "depth": 0}, {"type": "bimamba", "num_layers": 0}, {"type": "perceiver", "depth": 0}]
)
def test_no_layers_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        ResamplerModule(options, input_dim=4, latent_dim=4)


def test_a_new_resampler_is_one_class_and_one_line() -> None:
    class Halves(Resampler):
        is_grid = True

        def __init__(self, input_dim: int, latent_dim: int, *, bias: bool = True) -> None:
            super().__init__(input_dim, latent_dim)
            self.linear = nn.Linear(input_dim, latent_dim, bias=bias)

        def output_grid(self, grid_hw: tuple[int, int]) -> tuple[int, int]:
            return grid_hw[0] // 2, grid_hw[1]

        def output_tokens(self, grid_hw: tuple[int, int]) -> int:
            return grid_hw[0] // 2 * grid_hw[1]

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.linear(tokens[:, : tokens.shape[1] // 2])
            return result

    RESAMPLERS.add("halves", Halves)
    try:
        module = ResamplerModule({"type": "halves", "bias": False}, input_dim=4, latent_dim=6)
        assert module(torch.randn(1, 8, 4)).shape == (1, module.output_tokens((4, 2)), 6)
    finally:
        del RESAMPLERS._entries["halves"]
