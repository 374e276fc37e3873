"""PanoramaTrainingModule: what is trained in a stage, with which losses and learning rates.

Shapes: B samples, P distinct panoramas, V views, S tokens per view, T vision tokens, L sequence, D widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import AdamW, Optimizer

from cora.config.schema import CORAConfig, StageName
from cora.data.feature_cache import FeatureCache
from cora.errors import ConfigError
from cora.model.projectors import VICRegProjector
from cora.model.vlm import PanoramaVLM
from cora.training.blocks import keep_checkpointing, prepare_blocks
from cora.training.diagnostics import FeatureDiagnostics, StageDiagnostics
from cora.training.losses.view_losses import ViewLosses
from cora.training.processes import gathered
from cora.training.schedule import linear_warmup_decay
from cora.training.token_drop import keep_vision_tokens

__all__ = ["PanoramaTrainingModule"]

Batch = dict[str, Any]

# The vision encoder arrives pretrained: it moves at a tenth of the stage's learning rate.
VISION_LR_FACTOR = 0.1
WEIGHT_DECAY = {"vision": 0.01, "resampler": 0.05, "projector": 0.05, "vicreg_head": 0.05, "language_model": 0.01}


def _is_empty(batch: Batch) -> bool:
    return "pixel_values" not in batch and "vision_features" not in batch


def _all_names(parts: Sequence[tuple[Mapping[str, float], int]]) -> list[str]:
    """Return the names in any of the parts, in the same order in every process."""
    return sorted({name for part, _ in parts for name in part})


class PanoramaTrainingModule(LightningModule):
    """One training stage of a PanoramaVLM.

    The vision stage trains the last vision blocks, the resampler and the head of the self-supervised loss; the
    resampler stage trains the resampler and the projector through the frozen language model; the finetune stage trains
    resampler, projector and the language model, or LoRA adapters on it.

    Args:
        model: The model; it is trained in place.
        config: The run's configuration.
        stage_name: Which stage.

    Attributes:
        feature_cache: Keeps the features that are computed; None keeps none.
    """

    def __init__(self, model: PanoramaVLM, config: CORAConfig, stage_name: StageName) -> None:
        super().__init__()
        # Checkpoints hold what the stage trains, and `on_load_checkpoint` checks that it is all of it.
        self.strict_loading = False
        self.model = model
        self.stage_name = stage_name
        self.stage = config.training.stage_configs[stage_name]
        self.seed = config.training.seed
        self.uses_answers = stage_name != "vision"
        self.view_losses = ViewLosses(model.config, self.stage, stage_name)
        self.feature_cache: FeatureCache | None = None
        self.vicreg_head: nn.Module | None = None
        if self.view_losses.weights:
            self.vicreg_head = VICRegProjector(
                model.config.latent_dim,
                config.models.vicreg_projector_dim,
                depth=config.models.vicreg_projector_depth,
                dropout=config.models.vicreg_projector_dropout,
            )
        elif not self.uses_answers:
            raise ConfigError(
                "the vision stage has no loss: set training.stage_configs.vision.vicreg_loss_weight "
                "or global_local_loss_weight"
            )
        self.diagnostics = self._build_diagnostics()
        self._freeze(use_lora=config.lora.use_lora)
        if self.stage_name == "finetune" and config.lora.use_lora:
            lora = config.lora
            model.language_model.add_lora(
                rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, target_modules=lora.target_modules
            )
        prepare_blocks(model, config)
        # Taken down now: a strategy that takes the module to pieces renames them.
        self.trained_names = frozenset(name for name, item in self.named_parameters() if item.requires_grad)
        self._validation: dict[str, Tensor] = {}
        self._num_validated = 0

    def _build_diagnostics(self) -> StageDiagnostics:
        """Measure latent tokens, and patch tokens in the stage that is about them."""
        layout = self.model.config.token_layout
        levels = {"latent": FeatureDiagnostics(layout.views, layout.grid_hw)}
        if self.stage_name == "vision":
            levels["vision"] = FeatureDiagnostics(layout.views, self.model.config.vision_grid_hw)
        return StageDiagnostics(self.stage_name, levels)

    def _freeze(self, *, use_lora: bool) -> None:
        model = self.model
        model.vision.set_trainable_blocks(self.stage.vision_trainable_blocks)
        model.resampler.requires_grad_(True)
        model.projector.requires_grad_(self.uses_answers)
        model.language_model.requires_grad_(self.stage_name == "finetune" and not use_lora)

    @property
    def vision_is_frozen(self) -> bool:
        """Whether vision features stay the same during the stage."""
        return not any(parameter.requires_grad for parameter in self.model.vision.parameters())

    def on_fit_start(self) -> None:
        """Let dropout differ between processes, which have the same seed so far; a checkpoint's numbers come later."""
        if self.global_rank:
            torch.manual_seed(self.seed + self.global_rank)

    def on_train_start(self) -> None:
        """Keep frozen towers in evaluation mode; within a resumed epoch Lightning does not say that it starts."""
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Keep frozen towers in evaluation mode: their dropout would only add noise."""
        for tower in (self.model.vision, self.model.language_model):
            if not any(parameter.requires_grad for parameter in tower.parameters()):
                tower.eval()
                keep_checkpointing(tower)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the named losses of a batch and their weighted sum as ``loss``; views are encoded once."""
        model = self.model
        features = self._vision_features(batch)
        latents = model.resample(features.to(model.dtype))
        if not self.training:
            self.diagnostics.update(vision=features, latent=latents)
        losses: dict[str, Tensor] = {}
        total = latents.new_zeros(())
        if self.uses_answers:
            vision_tokens = model.projector(latents)
            # Questions about one panorama share what was made of it.
            panorama = batch.get("panorama")
            losses["lm"] = self._answer_loss(batch, vision_tokens if panorama is None else vision_tokens[panorama])
            total = total + losses["lm"]
        if self.vicreg_head is not None:
            for name, loss in self.view_losses(self.vicreg_head, latents).items():
                losses[name] = loss
                total = total + self.view_losses.weights[name] * loss
        return {**losses, "loss": total}

    def _vision_features(self, batch: Batch) -> Tensor:
        """Return the features float[P, V, S, D] of a batch, in the order of its panoramas."""
        known, views = batch.get("vision_features"), batch.get("pixel_values")
        if views is None:
            return cast(Tensor, known)
        features = self.model.encode_views(views)
        if self.feature_cache is not None:
            features = self.feature_cache.store(batch["report"].feature_keys, features)
        if known is None:
            return features
        return torch.cat((known.to(features.dtype), features))[batch["panorama_rows"]]

    def _no_loss(self) -> Tensor:
        """Return a loss of zero with gradients of zero: of a batch of skipped panoramas there is nothing to learn."""
        return cast(Tensor, sum(item.sum() * 0 for item in self.parameters() if item.requires_grad))

    def _answer_loss(self, batch: Batch, vision_tokens: Tensor) -> Tensor:
        kept = self.model.resampler.draw_kept(*vision_tokens.shape[:2])
        if kept is not None:
            placeholders = self.model.fusion.placeholders(batch["input_ids"])
            batch, vision_tokens = keep_vision_tokens(batch, vision_tokens, placeholders=placeholders, kept=kept)
        embeddings = self.model.fusion(
            batch["input_ids"], self.model.language_model.embed(batch["input_ids"]), vision_tokens
        )
        return self.model.answer_loss(
            labels=batch["labels"],
            inputs_embeds=embeddings,
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            use_cache=False,
        )

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch."""
        if _is_empty(batch):
            return self._no_loss()
        losses = self._losses(batch)
        self.log_dict({f"train_{name}": value.detach() for name, value in losses.items()}, prog_bar=True, batch_size=1)
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add up the losses of a batch."""
        if _is_empty(batch):
            return
        self._num_validated += 1
        for name, loss in self._losses(batch).items():
            self._validation[name] = self._validation.get(name, 0.0) + loss.detach().float()

    def on_validation_epoch_start(self) -> None:
        """Begin measuring."""
        self.diagnostics.reset()
        self._validation, self._num_validated = {}, 0

    def on_validation_epoch_end(self) -> None:
        """Log the mean losses, and what `cora.training.diagnostics` measured, over the batches of all processes."""
        sums = {f"val_{name}": float(value) for name, value in self._validation.items()}
        parts = gathered((sums, self._num_validated))
        number = sum(count for _, count in parts)
        # A process whose panoramas were all skipped has no losses, and waits for nobody's.
        losses = {name: sum(part.get(name, 0.0) for part, _ in parts) / number for name in _all_names(parts)}
        self.log_dict(losses, prog_bar=True, batch_size=1, sync_dist=True)
        measures = [(measured, 1) for measured in gathered(self.diagnostics.compute())]
        for name in _all_names(measures):
            values = [measured[name] for measured, _ in measures if name in measured]
            self.log(name, sum(values) / len(values), sync_dist=True)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the norm of all gradients; where weights are shared out, over all their pieces."""
        root = self.trainer.strategy.model
        if isinstance(root, FullyShardedDataParallel):
            if gradient_clip_val is not None:
                root.clip_grad_norm_(gradient_clip_val)
        else:
            self.clip_gradients(
                optimizer, gradient_clip_val=gradient_clip_val, gradient_clip_algorithm=gradient_clip_algorithm
            )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW over one parameter group per part of the model, with warm-up and linear decay per step."""
        connector = self.stage.connector_lr_factor
        lr_factors = {"vision": VISION_LR_FACTOR, "resampler": connector, "projector": connector}
        groups = []
        for name, weight_decay in WEIGHT_DECAY.items():
            part = self.vicreg_head if name == "vicreg_head" else getattr(self.model, name)
            parameters = [] if part is None else [item for item in part.parameters() if item.requires_grad]
            if parameters:
                lr = self.stage.lr * lr_factors.get(name, 1.0)
                groups.append({"params": parameters, "lr": lr, "weight_decay": weight_decay, "name": name})
        optimizer = AdamW(groups, betas=(0.9, 0.98), eps=1e-8)
        total_steps = cast(int, self.trainer.estimated_stepping_batches)
        if self.stage.max_steps is not None:
            total_steps = min(total_steps, self.stage.max_steps)
        schedule = linear_warmup_decay(optimizer, total_steps=total_steps, warmup_ratio=self.stage.warmup_ratio)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the tensors this stage trains, by their name in the module."""
        return {name: value for name, value in self.state_dict().items() if name in self.trained_names}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen weights out of the checkpoint: they are where they were loaded from."""
        whole = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in whole.items() if name in self.trained_names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another stage or model."""
        self._check_names(checkpoint["state_dict"])

    def _check_names(self, state: dict[str, Tensor]) -> None:
        if different := sorted(self.trainable_state().keys() ^ state.keys()):
            raise ConfigError(f"the checkpoint does not fit stage '{self.stage_name}', first: {different[0]}")

    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of a checkpoint of this stage.

        Raises:
            ConfigError: It is a checkpoint of another stage or model.
        """
        self._check_names(state)
        with torch.no_grad():
            self.load_state_dict(state, strict=False)
