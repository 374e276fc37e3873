"""PanoramaVLM inside vLLM: our vision tower, resampler and projector, vLLM's language model.

Shapes: N panoramas of H x W pixels, V views, T vision tokens, L tokens of all sequences of a step, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsLoRA, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from cora.model.configuration import PanoramaVLMConfig
from cora.model.embedder import PanoramaEmbedder
from cora.model.projectors import PanoramaProjector
from cora.model.resampler.module import ResamplerModule
from cora.model.vision_encoder import VisionBackbone
from cora.processors.images import PanoramaImageProcessor
from cora.processors.text import VISION_TOKEN
from cora.vllm_plugin.processing import (
    PANORAMAS,
    VIEWS,
    PanoramaDummyInputs,
    PanoramaMultiModalProcessor,
    PanoramaProcessingInfo,
)

__all__ = ["PanoramaVLMForVLLM"]

TOWER_PREFIX = "vision.model."


@MULTIMODAL_REGISTRY.register_processor(
    PanoramaMultiModalProcessor, info=PanoramaProcessingInfo, dummy_inputs=PanoramaDummyInputs
)
class PanoramaVLMForVLLM(PanoramaEmbedder, nn.Module, SupportsMultiModal, SupportsPP, SupportsLoRA):  # type: ignore[misc]
    """The model class of the architecture ``PanoramaVLM``.

    Args:
        vllm_config: vLLM's settings with the export's configuration.
        prefix: Name of this module among vLLM's layers.
    """

    # In an export the language model is wrapped once more than in vLLM.
    hf_to_vllm_mapper = WeightsMapper(orig_to_new_prefix={"language_model.model.": "language_model."})
    packed_modules_mapping = {  # noqa: RUF012  # vLLM reads it from the class
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config: PanoramaVLMConfig = vllm_config.model_config.hf_config
        self.config = config
        dtype = vllm_config.model_config.dtype
        # transformers would build the tower in the dtype it was saved in.
        config.vision_config.dtype = dtype
        self.configure_mm_token_handling(  # type: ignore[operator]  # nn.Module hides it
            vocab_size=config.text_config.vocab_size, mm_token_ids=[config.image_token_id]
        )
        with self._mark_tower_model(vllm_config, "image"):  # type: ignore[operator]
            self.vision = VisionBackbone(config.vision_config)
            self.resampler = ResamplerModule(
                config.resampler, input_dim=self.vision.hidden_size, latent_dim=config.latent_dim
            )
            self.projector = PanoramaProjector(
                config.token_layout,
                latent_dim=config.latent_dim,
                output_dim=config.text_config.hidden_size,
                positional_encoding=config.projector["positional_encoding"],
            )
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
            )
        self._image_processor = PanoramaImageProcessor.from_dict(config.image_processing)
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Return what stands for a panorama in a prompt."""
        if modality.startswith("image"):
            return VISION_TOKEN
        raise ValueError(f"CORA sees images only, got {modality}")

    def embed_multimodal(self, **kwargs: object) -> Tensor | list[Tensor]:
        """Return vision tokens float[N, T, D].

        Args:
            **kwargs: ``pixel_values`` float[N, V, 3, height, width], or ``panoramas`` uint8[N, H, W, 3], whose views
                are cut here, or a list where they differ in size.
        """
        tokens = list(self.embed_each(self._views(kwargs)))
        return torch.stack(tokens) if tokens else []

    def _views(self, fields: Mapping[str, Any]) -> Iterator[Tensor]:
        """Yield the views float[V, 3, height, width] of each panorama."""
        for panorama in fields.get(PANORAMAS, ()):
            yield self._image_processor.crop(panorama, dtype=self.vision.dtype)
        yield from fields.get(VIEWS, ())

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Any:
        """Return hidden states float[L, D] for ids int64[L] or embeddings float[L, D] at positions int64[L]."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return logits for hidden states float[L, D]."""
        logits: Tensor | None = self.language_model.compute_logits(hidden_states)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load an export's weights; return the names of the parameters that got a value."""
        tower: dict[str, Tensor] = {}
        loaded: set[str] = AutoWeightsLoader(self).load_weights(
            self._without_tower(weights, tower), mapper=self.hf_to_vllm_mapper
        )
        self.vision.load_checkpoint_weights(tower)
        return loaded | {name for name, _ in self.named_parameters() if name.startswith(TOWER_PREFIX)}

    @staticmethod
    def _without_tower(weights: Iterable[tuple[str, Tensor]], tower: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights that are not the vision tower's, and put those aside in `tower`."""
        for name, weight in weights:
            if name.startswith(TOWER_PREFIX):
                tower[name.removeprefix(TOWER_PREFIX)] = weight
            else:
                yield name, weight

    def get_mm_mapping(self) -> MultiModelKeys:
        """Return which children are what, for LoRA."""
        return MultiModelKeys.from_string_field(
            language_model="language_model", connector=["resampler", "projector"], tower_model="vision"
        )
