from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import TINY_RESAMPLERS as OPTIONS
from torch import nn

from cora.errors import ConfigError, RegistryError
from cora.model.resampler import RESAMPLERS, GridResampler, ResamplerModule
from cora.model.resampler.module import checked_options, option_names

GRIDS = [(3, 5), (4, 4), (8, 6), (5, 3)]


def build(kind: str, **options: object) -> ResamplerModule:
    torch.manual_seed(0)
    return ResamplerModule({"type": kind, **OPTIONS[kind], **options}, input_dim=12, latent_dim=10).eval()


def test_every_registered_resampler_is_tested_here() -> None:
    assert set(RESAMPLERS.names()) == set(OPTIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", OPTIONS)
def test_what_comes_out_is_what_was_promised(
    kind: str, grid: tuple[int, int], trains: bool, dtype: torch.dtype
) -> None:
    module = build(kind).train(trains).to(dtype)
    latents = module(torch.randn(2, grid[0] * grid[1], 12, dtype=dtype), grid)
    assert latents.shape == (2, module.num_tokens(grid), 10)
    assert latents.dtype == dtype
    assert latents.isfinite().all()
    assert module.is_grid == (module.output_grid(grid) is not None)
    if module.is_grid:
        height, width = module.output_grid(grid)  # type: ignore[misc]  # it is a grid
        assert height * width == module.num_tokens(grid)


def test_which_resamplers_are_grids() -> None:
    assert {kind for kind in OPTIONS if not build(kind).is_grid} == {"perceiver", "qformer"}


def test_tokens_that_are_not_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float\[N, 3 \* 5, D\], got \(2, 16, 12\)"):
        build("mlp")(torch.randn(2, 16, 12), (3, 5))


@pytest.mark.parametrize("kind", OPTIONS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    module = build(kind).double()
    tokens = torch.randn(1, 4, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: module(each, (2, 2)), tokens)


@pytest.mark.parametrize("kind", OPTIONS)
def test_weights_load_into_a_module_made_without_memory(kind: str) -> None:
    ours = build(kind)
    with torch.device("meta"):
        theirs = build(kind)
    theirs.load_state_dict(ours.state_dict(), assign=True)
    tokens = torch.randn(2, 15, 12)
    assert torch.equal(ours(tokens, (3, 5)), theirs.eval()(tokens, (3, 5)))


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_same_seed_makes_the_same_weights(kind: str) -> None:
    one, other = build(kind).state_dict(), build(kind).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(value.isfinite().all() for value in one.values())


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    module = build(kind)
    module(torch.randn(2, 15, 12), (3, 5)).square().sum().backward()
    without = [
        name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize("kind", OPTIONS)
def test_views_do_not_see_each_other(kind: str) -> None:
    module = build(kind)
    tokens = torch.randn(3, 15, 12)
    torch.testing.assert_close(module(tokens, (3, 5))[1:2], module(tokens[1:2], (3, 5)))


@pytest.mark.parametrize("kind", ["identity", "mlp", "masked_drop"])
def test_token_by_token_resamplers_keep_order(kind: str) -> None:
    module, tokens = build(kind), torch.randn(1, 6, 12)
    order = torch.randperm(6)
    torch.testing.assert_close(module(tokens, (2, 3))[:, order], module(tokens[:, order], (2, 3)))


def test_unknown_type_and_option_get_a_suggestion() -> None:
    with pytest.raises(RegistryError, match="did you mean 'bimamba'"):
        ResamplerModule({"type": "bimanba"}, input_dim=4, latent_dim=4)
    with pytest.raises(ConfigError, match=r"'mlp' has no option 'hiden_dim' \(did you mean 'hidden_dim'"):
        ResamplerModule({"type": "mlp", "hiden_dim": 8}, input_dim=4, latent_dim=4)
    with pytest.raises(ConfigError, match=r"resampler\.type is missing"):
        ResamplerModule({}, input_dim=4, latent_dim=4)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"type": "mlp", "depth": 0}, r"resampler\.depth of 'mlp': .* greater than or equal to 1 \(got 0\)"),
        ({"type": "bimamba", "num_layers": 0}, "equal to 1"),
        ({"type": "bimamba", "depth": 0}, r"resampler\.depth of 'bimamba'"),
        ({"type": "bimamba", "depth": 2, "num_layers": 2}, "num_layers of 'bimamba' is given twice, once as"),
        ({"type": "bimamba", "dropout": 1.0}, "less than 1"),
        ({"type": "perceiver", "depth": 0}, "equal to 1"),
        ({"type": "perceiver", "heads": "many"}, "valid integer"),
        ({"type": "mlp", "pool_type": "min"}, "'avg' or 'max'"),
        ({"type": "masked_drop", "mask_ratio": 0.0}, "greater than 0"),
        ({"type": "masked_drop", "mask_ratio": 1.5}, "less than or equal to 1"),
        ({"type": "qformer", "num_attention_heads": 5}, "does not divide the vision width 4"),
        ({"type": "c_abstractor", "kernel_size": 4}, "must be odd"),
    ],
)
def test_values_an_option_cannot_have_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ResamplerModule(options, input_dim=4, latent_dim=4)


def test_defaults_are_those_of_the_research_code() -> None:
    expected: dict[str, dict[str, Any]] = {
        "identity": {},
        "mlp": {"hidden_dim": 1536, "depth": 3, "use_ln": True, "pool_tokens": None, "pool_type": "avg"},
        "bimamba": {
            "hidden_dim": 1024,
            "num_layers": 4,
            "d_state": 64,
            "d_conv": 4,
            "expand": 2.0,
            "norm_first": True,
            "dropout": 0.05,
        },
        "qformer": {"num_query_tokens": 64, "num_hidden_layers": 6, "num_attention_heads": 8, "dropout": 0.1},
        "perceiver": {"num_latents": 64, "heads": 8, "dim_head": 64, "depth": 6, "ff_mult": 4},
        "spatial_pool": {"pool_size": 4, "pool_mode": "average", "depth": 2},
        "masked_drop": {
            "mask_ratio": 0.5,
            "mask_mode": "fixed",
            "ratio_lower": 0.3,
            "ratio_upper": 0.7,
            "skip_percentage": 0.0,
            "depth": 2,
        },
        "c_abstractor": {
            "hidden_dim": 1024,
            "depth": 3,
            "num_queries": 0,
            "kernel_size": 7,
            "expand": 4,
            "se_reduction": 4,
            "mlp_depth": 2,
            "drop_path": 0.0,
        },
    }
    for kind in RESAMPLERS.names():
        defaults = RESAMPLERS.get(kind).__init__.__kwdefaults__ or {}  # type: ignore[misc]
        assert defaults == expected[kind]
        assert set(option_names(RESAMPLERS.get(kind))) == set(defaults)


@pytest.mark.parametrize(
    ("kind", "older", "name"),
    [
        ("bimamba", "depth", "num_layers"),
        ("perceiver", "num_heads", "heads"),
        ("perceiver", "head_dim", "dim_head"),
        ("qformer", "num_query", "num_query_tokens"),
    ],
)
def test_older_names_of_options_are_read(kind: str, older: str, name: str) -> None:
    assert checked_options({"type": kind, older: 3})[2] == {name: 3}


def test_a_new_resampler_is_one_class_and_one_line() -> None:
    class Halves(GridResampler):
        def __init__(self, input_dim: int, latent_dim: int, *, bias: bool = True) -> None:
            super().__init__(input_dim, latent_dim)
            self.linear = nn.Linear(input_dim, latent_dim, bias=bias)

        def output_grid(self, grid_hw: tuple[int, int]) -> tuple[int, int]:
            return grid_hw[0] // 2, grid_hw[1]

        def forward(self, tokens: torch.Tensor, grid_hw: tuple[int, int]) -> torch.Tensor:
            result: torch.Tensor = self.linear(tokens[:, : self.num_tokens(grid_hw)])
            return result

    RESAMPLERS.add("halves", Halves)
    try:
        module = ResamplerModule({"type": "halves", "bias": False}, input_dim=4, latent_dim=6)
        assert module(torch.randn(1, 10, 4), (5, 2)).shape == (1, module.num_tokens((5, 2)), 6) == (1, 4, 6)
    finally:
        del RESAMPLERS._entries["halves"]


@pytest.mark.parametrize("kind", OPTIONS)
def test_mixed_precision_trains(kind: str) -> None:
    module, tokens = build(kind).train(), torch.randn(2, 15, 12)
    with torch.autocast("cpu", torch.bfloat16):
        latents = module(tokens, (3, 5))
    latents.float().square().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in module.parameters())
    exact = build(kind, **({"dropout": 0.0} if "dropout" in option_names(RESAMPLERS.get(kind)) else {}))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = exact(tokens, (3, 5))
    torch.testing.assert_close(rounded.float(), exact(tokens, (3, 5)), rtol=0.05, atol=0.05)
