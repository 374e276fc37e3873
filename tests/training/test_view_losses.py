"""Which losses a stage gets from its keys, that each key acts, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import make_batch, make_model

from cora.config.schema import CORAConfig, StageConfig
from cora.errors import ConfigError
from cora.model.projectors import VICRegProjector
from cora.training.losses import view_losses
from cora.training.losses.view_losses import ViewLosses
from cora.training.module import PanoramaTrainingModule

WITH_GLOBAL = {"crop_strategy": "anyres_e2p", "fov_deg": 90, "overlap_ratio": 0.5}


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model(image_processing=WITH_GLOBAL)[0]


def losses_of(model: Any, *, trains: bool = False, **keys: Any) -> dict[str, float]:
    """Return the weighted losses of fixed latents under the given keys of a stage."""
    torch.manual_seed(0)
    layout = model.config.token_layout
    latents = torch.randn(2, len(layout.views), layout.tokens_per_view, 24)
    head = VICRegProjector(24, dropout=0.1).train(trains)
    stage = StageConfig.model_validate({"vicreg_loss_weight": 1.0, **keys})
    losses = ViewLosses(model.config, stage, "vision")
    return {name: losses.weights[name] * value.item() for name, value in losses(head, latents).items()}


@pytest.mark.parametrize("kind", ["contrastive", "vicreg", "densecl"])
def test_the_type_names_the_loss_and_the_weight_scales_it(model: Any, kind: str) -> None:
    single, double = (losses_of(model, vision_loss_type=kind, vicreg_loss_weight=weight) for weight in (1.0, 2.0))
    assert set(single) == {kind}
    assert double[kind] == pytest.approx(2 * single[kind])


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("contrastive", "contrastive_tau_overlap", 0.2),
        ("contrastive", "contrastive_tau_tile", 0.5),
        ("contrastive", "contrastive_tile_weight", 0.7),
        ("densecl", "densecl_temperature", 0.2),
        ("vicreg", "vicreg_mode", "batchwise"),
        ("vicreg", "vicreg_similarity_weight", 2.0),
        ("vicreg", "vicreg_variance_weight", 2.0),
        ("vicreg", "vicreg_covariance_weight", 2.0),
        *[(kind, "vicreg_overlap_ratio", 0.25) for kind in ("contrastive", "vicreg", "densecl")],
        *[(kind, "overlap_matching", "columns") for kind in ("contrastive", "vicreg", "densecl")],
    ],
)
def test_every_key_acts(model: Any, kind: str, key: str, value: Any) -> None:
    before = losses_of(model, vision_loss_type=kind)[kind]
    assert losses_of(model, vision_loss_type=kind, **{key: value})[kind] != pytest.approx(before, rel=1e-4)


def test_global_local_keys_act(model: Any) -> None:
    keys = {"vicreg_loss_weight": 0.0, "global_local_loss_weight": 0.5}
    cosine = losses_of(model, **keys)
    assert set(cosine) == {"global_local"}
    doubled = losses_of(model, **{**keys, "global_local_loss_weight": 1.0})
    assert doubled["global_local"] == pytest.approx(2 * cosine["global_local"])
    assert losses_of(model, **keys, global_local_loss_type="mse") != cosine
    assert set(losses_of(model, global_local_loss_weight=0.5)) == {"contrastive", "global_local"}


def test_a_validation_compares_two_passes_as_training_does_and_is_repeatable(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = losses_of(model)["contrastive"]
    assert losses_of(model)["contrastive"] == validation
    assert validation == pytest.approx(losses_of(model, trains=True)["contrastive"], rel=0.1)
    monkeypatch.setattr(view_losses, "_two_passes", lambda head, latents: (head(latents),) * 2)
    assert losses_of(model)["contrastive"] != pytest.approx(validation, rel=1e-3)


def test_a_validation_leaves_random_numbers_and_modes_alone(model: Any) -> None:
    layout = model.config.token_layout
    latents = torch.randn(1, len(layout.views), layout.tokens_per_view, 24)
    head = VICRegProjector(24).eval()
    losses = ViewLosses(model.config, StageConfig(vicreg_loss_weight=1.0), "vision")
    state = torch.random.get_rng_state()
    losses(head, latents)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not head.training


def test_a_stage_logs_and_adds_up_its_losses() -> None:
    model, processor = make_model(image_processing=WITH_GLOBAL)
    keys = {"vicreg_loss_weight": 0.5, "vision_loss_type": "densecl", "global_local_loss_weight": 2.0}
    config = CORAConfig.model_validate({"training": {"stage_configs": {"resampler": keys}}})
    module = PanoramaTrainingModule(model, config, "resampler").eval()
    losses = module._losses(make_batch(processor))
    assert set(losses) == {"lm", "densecl", "global_local", "loss"}
    expected = losses["lm"] + 0.5 * losses["densecl"] + 2.0 * losses["global_local"]
    torch.testing.assert_close(losses["loss"], expected)


@pytest.mark.parametrize("kind", ["contrastive", "vicreg", "densecl"])
def test_a_loss_without_physical_overlap_is_refused_by_its_key(kind: str) -> None:
    model, _ = make_model(
        image_processing={"crop_strategy": "e2p", "overlap_ratio": 0.0}, projector={"stitching": "concat"}
    )
    match = r"^training\.stage_configs\.vision\.vicreg_loss_weight: .* needs views that overlap physically"
    with pytest.raises(ConfigError, match=match):
        losses_of(model, vision_loss_type=kind)


@pytest.mark.parametrize("resampler", ["perceiver", "qformer"])
def test_latent_queries_are_no_grid_but_have_a_mean(resampler: str) -> None:
    options = {"perceiver": {"num_latents": 4, "heads": 2}, "qformer": {"num_query_tokens": 4}}[resampler]
    if resampler == "qformer":
        options |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    model, _ = make_model(
        image_processing=WITH_GLOBAL,
        resampler={"type": resampler, **options},
        projector={"stitching": "concat"},
    )
    match = rf"training\.stage_configs\.vision\.vicreg_loss_weight needs .* keeps the token grid; '{resampler}'"
    with pytest.raises(ConfigError, match=match):
        losses_of(model)
    assert set(losses_of(model, vicreg_loss_weight=0.0, global_local_loss_weight=1.0)) == {"global_local"}


def test_global_local_without_a_global_view_is_refused_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"training\.stage_configs\.vision\.global_local_loss_weight: .*the whole"):
        losses_of(make_model()[0], global_local_loss_weight=1.0)
