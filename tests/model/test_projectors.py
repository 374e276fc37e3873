from __future__ import annotations

import pytest
import torch
from torch import nn

from cora.errors import ConfigError
from cora.geometry.layouts import yaw_ring
from cora.model.layout import TokenLayout, build_token_layout
from cora.model.projectors import PanoramaProjector, VICRegProjector


def make_layout() -> TokenLayout:
    return build_token_layout(
        yaw_ring(90.0, 0.5), grid_hw=(2, 4), tokens_per_view=8, view_size=(16, 16), stitching="stride_views"
    )


@pytest.mark.parametrize("positional_encoding", [True, False])
def test_tokens_are_picked_placed_and_mapped(positional_encoding: bool) -> None:
    layout = make_layout()
    projector = PanoramaProjector(layout, latent_dim=30, output_dim=7, positional_encoding=positional_encoding)
    latents = torch.randn(2, 8, 8, 30)
    expected = torch.stack([latents.flatten(1, 2)[:, index] for index in layout.gather], dim=1)
    if positional_encoding:
        assert projector.encoding is not None
        expected = expected + projector.encoding(*layout.directions()[:2]).float()
    torch.testing.assert_close(projector(latents), projector.linear(expected))
    assert projector(latents).shape == (2, projector.num_tokens, 7)


def test_dropped_columns_never_reach_the_linear_layer() -> None:
    projector = PanoramaProjector(make_layout(), latent_dim=30, output_dim=7)
    latents = torch.randn(1, 8, 8, 30)
    dropped = sorted(set(range(64)) - set(projector.layout.gather))
    assert dropped
    poisoned = latents.clone()
    poisoned.view(1, 64, 30)[:, dropped] = float("nan")
    assert torch.equal(projector(poisoned), projector(latents))


def test_only_the_linear_layer_is_saved() -> None:
    projector = PanoramaProjector(make_layout(), latent_dim=30, output_dim=7)
    projector(torch.randn(1, 8, 8, 30))
    assert set(projector.state_dict()) == {"linear.weight", "linear.bias"}


def test_constants_survive_a_meta_constructor_and_inference_mode() -> None:
    with torch.device("meta"):
        projector = PanoramaProjector(make_layout(), latent_dim=30, output_dim=7)
    projector.to_empty(device="cpu")
    nn.init.normal_(projector.linear.weight)
    nn.init.zeros_(projector.linear.bias)
    latents = torch.randn(1, 8, 8, 30)
    with torch.inference_mode():
        first = projector(latents)
    latents.requires_grad_()
    second = projector(latents)
    second.sum().backward()
    assert torch.equal(first, second)
    assert latents.grad is not None


def test_wrong_number_of_views_is_refused() -> None:
    projector = PanoramaProjector(make_layout(), latent_dim=30, output_dim=7)
    with pytest.raises(ValueError, match=r"float\[B, 8, 8, D\]"):
        projector(torch.randn(1, 9, 8, 30))


def test_vicreg_projector_has_depth_norm_and_dropout() -> None:
    head = VICRegProjector(6, 10, depth=3, dropout=0.5)
    kinds = [type(layer).__name__ for layer in head.layers]
    assert kinds == ["Linear", "LayerNorm", "GELU", "Dropout"] * 2 + ["Linear"]
    assert head(torch.randn(2, 5, 6)).shape == (2, 5, 10)
    assert [type(layer).__name__ for layer in VICRegProjector(6, depth=2, use_ln=False).layers] == [
        "Linear",
        "GELU",
        "Dropout",
        "Linear",
    ]
    assert VICRegProjector(6)(torch.randn(2, 6)).shape == (2, 6)
    with pytest.raises(ConfigError, match="at least 1"):
        VICRegProjector(6, depth=0)
