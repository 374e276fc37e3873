"""PanoramaEmbedder: from views to vision tokens, shared by the transformers model and the vLLM plug-in.

Shapes: B panoramas, V views, S patch and S' latent tokens per view, T vision tokens, D widths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from cora.model.configuration import PanoramaVLMConfig
from cora.model.projectors import PanoramaProjector
from cora.model.resampler.module import ResamplerModule
from cora.model.vision_encoder import VisionBackbone

__all__ = ["PanoramaEmbedder"]

# Patch tokens that are encoded at once, as far as whole panoramas allow: enough that a small tower's arithmetic takes
# longer than starting it, and less than one panorama of a large tower has.
_PATCH_TOKENS_AT_ONCE = 2048


class PanoramaEmbedder:
    """The methods of a module with a ``config`` and the children ``vision``, ``resampler`` and ``projector``."""

    config: PanoramaVLMConfig
    vision: VisionBackbone
    resampler: ResamplerModule
    projector: PanoramaProjector

    def encode_views(self, pixel_values: Tensor) -> Tensor:
        """Return patch tokens float[B, V, S, D] for normalised views float[B, V, 3, height, width]."""
        if pixel_values.ndim != 5:
            raise ValueError(f"pixel_values must be float[B, V, 3, height, width], got {tuple(pixel_values.shape)}")
        views = pixel_values.flatten(0, 1).to(self.vision.dtype)
        features: Tensor = self.vision(views).unflatten(0, pixel_values.shape[:2])
        return features

    def embed_features(self, features: Tensor) -> Tensor:
        """Return vision tokens float[B, T, D] in the language model's width for patch tokens float[B, V, S, D]."""
        vision_tokens: Tensor = self.projector(self.resample(features))
        return vision_tokens

    def resample(self, features: Tensor) -> Tensor:
        """Return latent tokens float[B, V, S', D] for patch tokens float[B, V, S, D]."""
        latents = self.resampler(features.flatten(0, 1), self.config.vision_grid_hw)
        per_panorama: Tensor = latents.unflatten(0, features.shape[:2])
        return per_panorama

    def embed_panoramas(self, pixel_values: Tensor) -> Tensor:
        """Return vision tokens float[B, T, D] for normalised views float[B, V, 3, height, width]."""
        return self.embed_features(self.encode_views(pixel_values))

    @property
    def panoramas_at_once(self) -> int:
        """How many panoramas are encoded together: a few small ones, and those of a large tower one by one."""
        height, width = self.config.vision_grid_hw
        return max(1, _PATCH_TOKENS_AT_ONCE // (len(self.config.token_layout.views) * height * width))

    def embed_each(self, panoramas: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the vision tokens float[T, D] of each panorama's normalised views float[V, 3, height, width]."""
        remaining = iter(panoramas)
        while group := list(islice(remaining, self.panoramas_at_once)):
            yield from self.embed_panoramas(torch.stack(group))
