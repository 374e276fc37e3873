"""Weights under the research code's names and shapes, which are written out here."""

from __future__ import annotations

import pytest
import torch
from tiny_models import TINY_RESAMPLERS
from torch import Tensor

from cora.errors import CheckpointError
from cora.model.resampler import ResamplerModule
from cora.model.resampler.research_weights import load_research_weights

MAMBA = "A_log D in_proj.weight conv1d.weight conv1d.bias x_proj.weight dt_proj.weight dt_proj.bias out_proj.weight"
PERCEIVER_LAYER = (
    "0.norm_media.weight 0.norm_media.bias 0.norm_latents.weight 0.norm_latents.bias 0.to_q.weight 0.to_kv.weight "
    "0.to_out.weight 1.0.weight 1.0.bias 1.1.weight 1.3.weight"
)
SPATIAL_BLOCK = (
    "dwconv.weight dwconv.bias norm.norm.weight norm.norm.bias pw1.weight pw1.bias se.fc.0.weight se.fc.0.bias "
    "se.fc.2.weight se.fc.2.bias pw2.weight pw2.bias"
)


def linear(*names: str) -> list[str]:
    return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


# In the order of our modules, so that the tensors of ours can be handed out in turn.
NAMES = {
    "identity": linear("proj"),
    "mlp": linear("mlp.0", "mlp.1", "mlp.3", "mlp.4", "mlp.6"),
    "spatial_pool": linear("proj.0", "proj.1", "proj.3"),
    "masked_drop": linear("proj.0", "proj.1", "proj.3"),
    "bimamba": [
        *linear("input_proj"),
        *[
            name
            for index in (0, 1)
            for name in (
                *linear(f"blocks.{index}.norm"),
                *[f"blocks.{index}.forward_block.{key}" for key in MAMBA.split()],
                *[f"blocks.{index}.backward_block.{key}" for key in MAMBA.split()],
            )
        ],
        *linear("final_norm", "output_proj"),
    ],
    "perceiver": [
        "perceiver.latents",
        *[f"perceiver.layers.{index}.{key}" for index in (0, 1) for key in PERCEIVER_LAYER.split()],
        *linear("perceiver.norm", "proj"),
    ],
    "c_abstractor": [
        *linear("input_proj"),
        *[f"{stage}.0.{key}" for stage in ("stage1", "stage2") for key in SPATIAL_BLOCK.split()],
        *linear("final_norm", "readout.0", "readout.2"),
    ],
}


def build(kind: str, seed: int) -> ResamplerModule:
    torch.manual_seed(seed)
    return ResamplerModule({"type": kind, **TINY_RESAMPLERS[kind]}, input_dim=12, latent_dim=10).eval()


def research_state(module: ResamplerModule) -> dict[str, Tensor]:
    state = dict(zip(NAMES[module.kind], module.resampler.state_dict().values(), strict=True))
    return {
        name: value[..., None, None] if ".pw" in name and value.ndim == 2 else value for name, value in state.items()
    }


@pytest.mark.parametrize("is_whole_model", [False, True])
@pytest.mark.parametrize("kind", NAMES)
def test_weights_of_the_research_code_load(kind: str, is_whole_model: bool) -> None:
    trained, ours, tokens = build(kind, 0), build(kind, 1), torch.randn(2, 15, 12)
    state = research_state(trained)
    if is_whole_model:
        state = {f"model.resampler.resampler.{name}": value for name, value in state.items()}
        state["model.projector.linear.weight"] = torch.zeros(3)
    assert not torch.equal(ours(tokens, (3, 5)), trained(tokens, (3, 5)))
    load_research_weights(ours, state)
    assert torch.equal(ours(tokens, (3, 5)), trained(tokens, (3, 5)))


def test_every_resampler_has_names_or_is_refused() -> None:
    assert set(TINY_RESAMPLERS) - set(NAMES) == {"qformer"}
    with pytest.raises(CheckpointError, match="causal queries"):
        load_research_weights(build("qformer", 0), {})


def test_weights_that_do_not_fit_are_named() -> None:
    state = research_state(build("mlp", 0))
    with pytest.raises(CheckpointError, match=r"no weights of this 'mlp' resampler, first: mlp\.6\.bias"):
        load_research_weights(build("mlp", 0), {name: state[name] for name in state if name != "mlp.6.bias"})
    with pytest.raises(CheckpointError, match=r"mlp\.6\.bias of 'mlp' is \[10\], got \[9\]"):
        load_research_weights(build("mlp", 0), {**state, "mlp.6.bias": torch.zeros(9)})
