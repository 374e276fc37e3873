"""Recomputed and compiled blocks: the same losses and gradients, for less memory or in less time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import make_batch, make_model

from cora.config.schema import CORAConfig
from cora.training.blocks import transformer_blocks
from cora.training.memory import measure_saved
from cora.training.module import PanoramaTrainingModule


def step(stage: str, *, blocks: int = 0, **training: Any) -> tuple[float, dict[str, torch.Tensor], int]:
    """Return loss, gradients and the bytes kept for the backward pass of a training step."""
    model, processor = make_model()
    settings = {"vision_trainable_blocks": blocks, "vicreg_loss_weight": 0.0}
    config = CORAConfig.model_validate(
        {"training": {"stage_configs": {stage: settings}, **training}, "lora": {"use_lora": True, "dropout": 0.0}}
    )
    torch.manual_seed(0)
    module = PanoramaTrainingModule(model, config, stage).train()  # type: ignore[arg-type]
    module.on_train_epoch_start()
    with measure_saved(module) as saved_bytes:
        loss = module._losses(make_batch(processor))["loss"]
    kept = saved_bytes()
    loss.backward()
    gradients = {name: item.grad for name, item in module.named_parameters() if item.grad is not None}
    return float(loss.detach()), gradients, kept


@pytest.mark.parametrize(("stage", "blocks"), [("resampler", 0), ("resampler", 2), ("finetune", 0)])
def test_recomputed_activations_give_the_same_gradients_for_less_memory(stage: str, blocks: int) -> None:
    loss, gradients, kept = step(stage, blocks=blocks)
    again, recomputed, less = step(stage, blocks=blocks, gradient_checkpointing=True)
    assert again == pytest.approx(loss)
    assert recomputed.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-5)
    assert less < 0.7 * kept


def test_both_towers_have_blocks() -> None:
    model, _ = make_model()
    assert len(list(transformer_blocks(model.vision))) == 2
    assert len(list(transformer_blocks(model.language_model))) == 2


# The compiler of torch warns about torch, and hides warnings that pytest makes errors of before it can.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradients() -> None:
    loss, gradients, _ = step("finetune", blocks=1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    again, compiled, _ = step("finetune", blocks=1, compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    assert again == pytest.approx(loss, rel=1e-4)
    assert compiled.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-3, atol=1e-4)
