"""What a run asks of the transformer blocks of both towers: to be compiled, or to recompute their activations."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from cora.config.schema import CORAConfig
from cora.model.vlm import PanoramaVLM

__all__ = ["prepare_blocks", "transformer_blocks"]

logger = logging.getLogger(__name__)


def transformer_blocks(model: nn.Module) -> Iterator[GradientCheckpointingLayer]:
    """Yield the transformer blocks of vision encoder and language model, as transformers marks them."""
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            yield module


def prepare_blocks(model: PanoramaVLM, config: CORAConfig) -> None:
    """Let the blocks of a model do what ``training.gradient_checkpointing`` and ``training.compile`` say.

    Blocks are compiled one by one: all of a tower share what is compiled for the first, and the names of weights stay.
    """
    settings = config.training
    if settings.gradient_checkpointing:
        # Not reentrant: the reentrant kind finds no gradient where the blocks' input needs none.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.compile:
        blocks = list(transformer_blocks(model))
        for block in blocks:
            block.compile()
        logger.info("%d transformer blocks are compiled when they are first used: that takes minutes", len(blocks))


def keep_checkpointing(tower: nn.Module) -> None:
    """Let the blocks of a tower in evaluation mode recompute their activations all the same.

    A frozen language model has gradients to pass on, and transformers recomputes in training mode only. The mode of
    what is inside a block (dropout) stays.
    """
    for block in transformer_blocks(tower):
        block.training = block.gradient_checkpointing
