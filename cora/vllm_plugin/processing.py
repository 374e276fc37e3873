"""How vLLM turns a request with a panorama into model input: through the processor of the export.

Views are cut here, or in the engine (``engine_crop``, see `is_cut_in_engine`): it is then given the panorama as bytes,
no larger than the views need, and the GPU cuts it.

Shapes: N panoramas of H x W pixels, T vision tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.inputs import MultiModalInput, mm_input
from vllm.multimodal.inputs import (
    MultiModalFieldConfig,
    MultiModalKwargsItem,
    MultiModalKwargsItems,
    PlaceholderRange,
)
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from cora.errors import ConfigError, CoraError, did_you_mean
from cora.model.configuration import PanoramaVLMConfig
from cora.processors.processor import PanoramaProcessor
from cora.processors.text import VISION_TOKEN

__all__ = [
    "PANORAMAS",
    "VIEWS",
    "PanoramaDummyInputs",
    "PanoramaMultiModalProcessor",
    "PanoramaProcessingInfo",
    "is_cut_in_engine",
]

logger = logging.getLogger(__name__)

# What a panorama is called on its way to the model, whole or cut.
PANORAMAS, VIEWS = "panoramas", "pixel_values"
_ENGINE_CROP = ("auto", "on", "off")


@lru_cache
def is_cut_in_engine(engine_crop: str | bool) -> bool:
    """Return whether the engine cuts panoramas: ``on``, ``off``, or ``auto``, which is ``on`` where it has a GPU.

    Raises:
        ConfigError: It is none of them.
    """
    # YAML takes these two words for truth values.
    if isinstance(engine_crop, bool):
        return engine_crop
    if engine_crop not in _ENGINE_CROP:
        raise ConfigError(
            f"unknown engine_crop '{engine_crop}'{did_you_mean(engine_crop, _ENGINE_CROP)}; "
            f"known: {', '.join(_ENGINE_CROP)}"
        )
    if engine_crop != "auto":
        return engine_crop == "on"
    from vllm.platforms import current_platform

    has_gpu = not current_platform.is_cpu()
    reason = "a GPU cuts fastest" if has_gpu else "the engine has no GPU"
    logger.info("engine_crop %s: %s", "on" if has_gpu else "off", reason)
    return has_gpu


class PanoramaProcessingInfo(BaseProcessingInfo):  # type: ignore[misc]  # vLLM is untyped here
    """What vLLM asks about the model before there is one."""

    def get_hf_config(self) -> PanoramaVLMConfig:
        """Return the configuration of the export."""
        config: PanoramaVLMConfig = self.ctx.get_hf_config(PanoramaVLMConfig)
        return config

    def get_hf_processor(self, **kwargs: object) -> PanoramaProcessor:
        """Return the processor of the export."""
        processor: PanoramaProcessor = self.ctx.get_hf_processor(PanoramaProcessor, **kwargs)
        return processor

    # Cached, these two, for they are asked for with every request and take as long as tokenising it.
    @cached_property
    def placeholders(self) -> tuple[int, int]:
        """The id of the token that holds a panorama's place, and how many of them it takes."""
        processor = self.get_hf_processor()
        return processor.image_token_id, processor.num_vision_tokens

    @cached_property
    def is_cut_in_engine(self) -> bool:
        """Whether the engine is given panoramas, not views."""
        return is_cut_in_engine(getattr(self.get_hf_config(), "engine_crop", "auto"))

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        """Return nothing: how panoramas are cut is fixed by the export, no request may change it."""
        return {}

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return one panorama per prompt, as in training."""
        return {"image": 1}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Return T; every panorama takes the same number of tokens."""
        return {"image": self.placeholders[1]}


class PanoramaDummyInputs(BaseDummyInputsBuilder[PanoramaProcessingInfo]):  # type: ignore[misc]  # vLLM is untyped here
    """Input for vLLM's memory profiling."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Return one placeholder per panorama."""
        return VISION_TOKEN * mm_counts.get("image", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]) -> Any:
        """Return white panoramas; the size does not matter, the number of tokens is fixed."""
        images = self._get_dummy_images(
            width=512, height=256, num_images=mm_counts.get("image", 0), overrides=mm_options.get("image")
        )
        return {"image": images}


class PanoramaMultiModalProcessor(BaseMultiModalProcessor[PanoramaProcessingInfo]):  # type: ignore[misc]  # see above
    """Calls the export's processor on panoramas and makes room for their tokens in the prompt.

    The server's requests come through `apply`. A run in this process has panoramas loaded and prompts encoded already:
    `cut` and `finished_input` spare it vLLM's handling of both, which would be repeated for every question.
    """

    @torch.inference_mode()
    def cut(self, panorama: Tensor) -> MultiModalKwargsItem:
        """Return what the engine is given of a panorama uint8[H, W, 3]: its views, or itself where the engine cuts."""
        images = self.info.get_hf_processor().image_processor
        if self.info.is_cut_in_engine:
            fields = BatchFeature({PANORAMAS: [images.shrink(panorama)]})
        else:
            fields = BatchFeature({VIEWS: [images.crop(panorama)]})
        (item,) = MultiModalKwargsItems.from_hf_inputs(fields, self._get_mm_fields_config(fields, {}))["image"]
        return item

    def finished_input(self, token_ids: Sequence[int], item: MultiModalKwargsItem, identity: str) -> MultiModalInput:
        """Return a request as the engine takes it.

        Args:
            token_ids: The prompt with T placeholders in a row.
            item: What `cut` made of the panorama.
            identity: What tells the panorama from others; the engine sees each only once.
        """
        token, count = self.info.placeholders
        place = PlaceholderRange(offset=token_ids.index(token), length=count)
        return mm_input(
            list(token_ids), MultiModalKwargsItems({"image": [item]}), {"image": [identity]}, {"image": [place]}
        )

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Return the processed prompt; what is wrong with a panorama reaches the client in our own words."""
        try:
            return super().apply(inputs, timing_ctx)
        except CoraError as error:
            raise VLLMValidationError(str(error), parameter="image") from error
        except ValueError as error:
            # vLLM wraps errors of a processor in one that only shows the arguments.
            if isinstance(error.__cause__, CoraError):
                raise VLLMValidationError(str(error.__cause__), parameter="image") from error
            raise

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        if not self.info.is_cut_in_engine:
            return super()._call_hf_processor(hf_data, hf_kwargs)
        images = self.info.get_hf_processor().image_processor
        return BatchFeature({PANORAMAS: [images.shrink(images.load(image)) for image in hf_data["images"]]})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {name: MultiModalFieldConfig.batched("image") for name in (PANORAMAS, VIEWS) if name in hf_inputs}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        token, count = self.info.placeholders
        return [PromptReplacement(modality="image", target=[token], replacement=[token] * count)]
