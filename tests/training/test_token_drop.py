"""Dropping vision tokens in a training step is the same as hiding them from every other token."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_batch, make_model

from cora.config.schema import CORAConfig
from cora.training.module import PanoramaTrainingModule
from cora.training.token_drop import keep_vision_tokens

NO_VICREG = {"training": {"stage_configs": {"resampler": {"vicreg_loss_weight": 0.0}}}}


def hide(batch: dict[str, torch.Tensor], model: torch.nn.Module, kept: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the batch with the full sequence and a mask that nobody sees a dropped token through."""
    placeholders = model.fusion.placeholders(batch["input_ids"])  # type: ignore[union-attr, operator]
    hidden = placeholders.clone()
    for row, keep in enumerate(kept):
        hidden[row, placeholders[row].nonzero().flatten()[keep]] = False
    mask = batch["attention_mask"]
    visible = mask * ~hidden if mask.ndim == 2 else mask & ~hidden[:, None, None, :]
    return {**batch, "attention_mask": visible}


@pytest.mark.parametrize("packs", [False, True])
def test_the_loss_is_that_of_hidden_tokens(packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = make_model(resampler={"type": "masked_drop"})
    module = PanoramaTrainingModule(model, CORAConfig.model_validate(NO_VICREG), "resampler").train()
    batch = make_batch(processor)
    if packs:
        length = batch["input_ids"].shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        batch["attention_mask"] = (causal & batch["attention_mask"].bool()[:, None]).unsqueeze(1)
    num_tokens = model.config.num_vision_tokens
    kept = torch.stack([torch.randperm(num_tokens)[: num_tokens // 2].sort().values for _ in range(2)])
    whole = module._losses(batch)["loss"]
    monkeypatch.setattr(model.resampler.resampler, "draw_kept", lambda *sizes: kept)
    dropped = module._losses(batch)["loss"]
    monkeypatch.setattr(model.resampler.resampler, "draw_kept", lambda *sizes: None)
    expected = module._losses(hide(batch, model, kept))["loss"]
    torch.testing.assert_close(dropped, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(dropped, whole, rtol=1e-3)


def test_sequences_get_shorter_and_keep_positions() -> None:
    batch = {
        "input_ids": torch.tensor([[1, 9, 9, 9, 2, 0], [1, 3, 9, 9, 9, 2]]),
        "labels": torch.tensor([[-100, -100, -100, -100, 2, -100], [-100, -100, -100, -100, -100, 2]]),
        "position_ids": torch.arange(6).expand(2, -1),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0], [1] * 6]),
    }
    vision = torch.arange(6.0).reshape(2, 3, 1)
    kept = torch.tensor([[0, 2], [1, 2]])
    narrow, tokens = keep_vision_tokens(batch, vision, placeholders=batch["input_ids"] == 9, kept=kept)
    assert narrow["input_ids"].tolist() == [[1, 9, 9, 2, 0], [1, 3, 9, 9, 2]]
    assert narrow["position_ids"].tolist() == [[0, 1, 3, 4, 5], [0, 1, 3, 4, 5]]
    assert narrow["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1] * 5]
    assert narrow["labels"].tolist() == [[-100, -100, -100, 2, -100], [-100] * 4 + [2]]
    assert tokens.flatten().tolist() == [0.0, 2.0, 4.0, 5.0]


def test_validation_sees_everything() -> None:
    model, processor = make_model(resampler={"type": "masked_drop"})
    module = PanoramaTrainingModule(model, CORAConfig.model_validate(NO_VICREG), "resampler").eval()
    batch = make_batch(processor)
    assert torch.equal(module._losses(batch)["loss"], module._losses(batch)["loss"])
    module.train()
    assert not torch.equal(module._losses(batch)["loss"], module._losses(batch)["loss"])


def test_the_overlap_loss_sees_the_whole_grid() -> None:
    model, processor = make_model(resampler={"type": "masked_drop"})
    config = CORAConfig.model_validate(
        {
            "models": {"vicreg_projector_dropout": 0.0},
            "training": {"stage_configs": {"resampler": {"vision_loss_type": "vicreg"}}},
        }
    )
    module = PanoramaTrainingModule(model, config, "resampler").train()
    batch = make_batch(processor)
    assert torch.equal(module._losses(batch)["vicreg"], module._losses(batch)["vicreg"])


def test_a_row_with_other_placeholders_is_refused() -> None:
    batch = {"input_ids": torch.tensor([[9, 9, 1]])}
    with pytest.raises(ValueError, match=r"every row must have 3 placeholders, got \[2\]"):
        keep_vision_tokens(batch, torch.zeros(1, 3, 1), placeholders=batch["input_ids"] == 9, kept=torch.tensor([[0]]))
