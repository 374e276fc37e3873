"""PanoramaTrainingModule: what each stage trains, how fast, and what its checkpoints hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VISION_TYPES, make_batch, make_model, make_panorama

from cora.config.schema import CORAConfig
from cora.data.samples import Conversation, PanoramaSample, collate_loaded
from cora.errors import ConfigError
from cora.training.module import PanoramaTrainingModule
from cora.training.schedule import warmup_decay_factor


def make_config(**sections: Any) -> CORAConfig:
    return CORAConfig.model_validate(sections)


def trained_parts(module: PanoramaTrainingModule) -> set[str]:
    return {name.split(".")[1] for name in module.trainable_state() if name.startswith("model.")}


def test_warm_up_and_decay() -> None:
    factors = [warmup_decay_factor(step, total_steps=100, warmup_ratio=0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == 0.0
    assert max(factors) == 1.0
    assert warmup_decay_factor(0, total_steps=1, warmup_ratio=0.0) == 1.0


@pytest.mark.parametrize(
    ("stage", "blocks", "parts"),
    [
        ("vision", 1, {"vision", "resampler"}),
        ("vision", 0, {"resampler"}),
        ("resampler", 0, {"resampler", "projector"}),
        ("finetune", 0, {"resampler", "projector", "language_model"}),
    ],
)
def test_a_stage_trains_its_parts(stage: Any, blocks: int, parts: set[str]) -> None:
    model, _ = make_model()
    config = make_config(training={"stage_configs": {stage: {"vision_trainable_blocks": blocks}}})
    assert trained_parts(PanoramaTrainingModule(model, config, stage)) == parts


def test_number_of_trainable_vision_blocks() -> None:
    counts = []
    for blocks in (0, 1, 2, "all"):
        model, _ = make_model()
        config = make_config(training={"stage_configs": {"vision": {"vision_trainable_blocks": blocks}}})
        module = PanoramaTrainingModule(model, config, "vision")
        counts.append(sum(name.startswith("model.vision") for name in module.trainable_state()))
        assert module.vision_is_frozen == (blocks == 0)
    assert counts[0] == 0
    assert counts == sorted(set(counts))


def test_lora_trains_adapters_only() -> None:
    model, _ = make_model()
    module = PanoramaTrainingModule(model, make_config(lora={"use_lora": True, "rank": 4}), "finetune")
    language = [name for name in module.trainable_state() if name.startswith("model.language_model")]
    assert language
    assert all("lora_" in name for name in language)


def groups_by_name(module: PanoramaTrainingModule) -> dict[str, dict[str, Any]]:
    class Trainer:
        estimated_stepping_batches = 10

    module._trainer = Trainer()  # type: ignore[assignment]
    return {group["name"]: group for group in module.configure_optimizers()["optimizer"].param_groups}  # type: ignore[typeddict-item, union-attr]


def test_learning_rate_groups() -> None:
    model, _ = make_model()
    config = make_config(training={"stage_configs": {"vision": {"lr": 1e-3, "vision_trainable_blocks": 1}}})
    module = PanoramaTrainingModule(model, config, "vision")

    groups = groups_by_name(module)
    assert set(groups) == {"vision", "resampler", "vicreg_head"}
    # The schedule has scaled them to its first step; its warm-up is one step long.
    assert groups["vision"]["lr"] == pytest.approx(groups["resampler"]["lr"] / 10)
    assert groups["resampler"]["initial_lr"] == pytest.approx(1e-3)
    grouped = {id(item) for group in groups.values() for item in group["params"]}
    assert grouped == {id(item) for item in module.parameters() if item.requires_grad}


def test_the_connector_may_learn_more_slowly() -> None:
    model, _ = make_model()
    stage = {"lr": 1e-3, "connector_lr_factor": 0.25, "vision_trainable_blocks": 1}
    config = make_config(training={"stage_configs": {"finetune": stage}})
    groups = groups_by_name(PanoramaTrainingModule(model, config, "finetune"))
    peaks = {name: group["initial_lr"] for name, group in groups.items()}
    assert peaks == pytest.approx({"vision": 1e-4, "resampler": 2.5e-4, "projector": 2.5e-4, "language_model": 1e-3})


@pytest.mark.parametrize("vision", VISION_TYPES)
@pytest.mark.parametrize(("blocks", "moved_blocks"), [(0, set()), (1, {1}), (2, {0, 1}), ("all", {0, 1})])
def test_the_last_vision_blocks_of_every_family_learn(vision: str, blocks: Any, moved_blocks: set[int]) -> None:
    model, processor = make_model(vision=vision)
    config = make_config(training={"stage_configs": {"vision": {"vision_trainable_blocks": blocks}}})
    module = PanoramaTrainingModule(model, config, "vision").train()
    module._losses(make_batch(processor))["loss"].backward()
    learning = {name for name, item in model.vision.named_parameters() if item.requires_grad}
    # Each of them has a gradient, so that nobody waits for one that never comes.
    assert {name for name, item in model.vision.named_parameters() if item.grad is not None} == learning
    in_blocks = {
        name: index for name in learning for index in (0, 1) if f"layers.{index}." in name or f"layer.{index}." in name
    }
    assert set(in_blocks.values()) == moved_blocks
    others = {name for name in learning - in_blocks.keys() if "layernorm" not in name}
    assert bool(others) == (blocks == "all")
    assert all("embeddings" in name for name in others if "pre_layrnorm" not in name)


@pytest.mark.parametrize("stage", ["resampler", "finetune"])
def test_a_step_moves_what_is_trained_and_nothing_else(stage: Any) -> None:
    model, processor = make_model()
    config = make_config(lora={"use_lora": True, "rank": 4, "dropout": 0.0})
    module = PanoramaTrainingModule(model, config, stage)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = torch.optim.SGD([item for item in module.parameters() if item.requires_grad], lr=0.1)
    losses = module._losses(make_batch(processor))
    assert set(losses) == ({"lm", "contrastive", "loss"} if stage == "resampler" else {"lm", "loss"})
    losses["loss"].backward()
    optimizer.step()
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved <= set(module.trainable_state())
    assert {name.split(".")[1] for name in moved if name.startswith("model.")} == trained_parts(module)


def test_the_answer_loss_is_that_of_the_whole_model() -> None:
    model, processor = make_model()
    config = make_config(training={"stage_configs": {"resampler": {"vicreg_loss_weight": 0.0}}})
    module = PanoramaTrainingModule(model, config, "resampler")
    batch = make_batch(processor)
    losses = module._losses(dict(batch))
    labels = batch.pop("labels")
    logits = model(**batch).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(losses["loss"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("known", [{0}, {1}, {0, 2}, {0, 1, 2}])
def test_known_features_change_no_loss(known: set[int]) -> None:
    """Dropout hits places of a batch, so what is known already must not change the order of panoramas."""
    model, processor = make_model()
    module = PanoramaTrainingModule(model, make_config(), "resampler").train()
    model.vision.eval()
    samples = []
    for seed in range(3):
        views = processor.image_processor(make_panorama(seed))["pixel_values"][0]
        conversation = Conversation(*processor.encode_training("What is ahead?", f"number {seed}"))
        samples.append(PanoramaSample(Path(f"{seed}.png"), views, False, (conversation,)))
    partly = [
        replace(sample, views=model.encode_views(sample.views[None])[0].detach(), has_features=True)
        if place in known
        else sample
        for place, sample in enumerate(samples)
    ]
    found = []
    for each in (samples, partly):
        # The second panorama has two questions.
        batch = collate_loaded([*each, each[1]], image_token_id=processor.image_token_id, pad_token_id=0)
        torch.manual_seed(0)
        found.append(module._losses(batch))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_checkpoints_hold_what_was_trained_and_fit_only_their_stage() -> None:
    model, _ = make_model()
    module = PanoramaTrainingModule(model, make_config(), "resampler")
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    state = {name: value + 1 for name, value in checkpoint["state_dict"].items()}
    assert not any("language_model" in name for name in state)
    module.load_trained(state)
    for name, value in module.trainable_state().items():
        assert torch.equal(value, state[name])
    with pytest.raises(ConfigError, match="does not fit stage 'finetune'"):
        PanoramaTrainingModule(make_model()[0], make_config(), "finetune").load_trained(state)


def test_a_vision_stage_without_a_loss_is_refused() -> None:
    config = make_config(training={"stage_configs": {"vision": {"vicreg_loss_weight": 0.0}}})
    with pytest.raises(ConfigError, match="the vision stage has no loss"):
        PanoramaTrainingModule(make_model()[0], config, "vision")


def test_an_overlap_loss_needs_a_token_grid() -> None:
    model, _ = make_model(
        resampler={"type": "perceiver", "num_latents": 4, "heads": 2}, projector={"stitching": "concat"}
    )
    with pytest.raises(ConfigError, match="needs a resampler that keeps the token grid; 'perceiver' does not"):
        PanoramaTrainingModule(model, make_config(), "vision")
