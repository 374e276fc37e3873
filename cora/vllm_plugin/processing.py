"""How vLLM turns a request with a panorama into model input: through the processor of the export.

Shapes: V views, T vision tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from cora.errors import CoraError
from cora.model.configuration import PanoramaVLMConfig
from cora.processors.processor import PanoramaProcessor
from cora.processors.text import VISION_TOKEN

__all__ = ["PanoramaDummyInputs", "PanoramaMultiModalProcessor", "PanoramaProcessingInfo"]


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

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        """Return nothing: how panoramas are cut is fixed by the export, no request may change it."""
        return {}

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return one panorama per prompt, as in training."""
        return {"image": 1}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Return T; every panorama takes the same number of tokens."""
        return {"image": self.get_hf_config().num_vision_tokens}


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
    """Calls the export's processor on panoramas and makes room for their tokens in the prompt."""

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Return the processed prompt; what is wrong with a panorama reaches the client in our own words."""
        try:
            return super().apply(inputs, timing_ctx)
        except ValueError as error:
            # vLLM wraps errors of a processor in one that only shows the arguments.
            if isinstance(error.__cause__, CoraError):
                raise VLLMValidationError(str(error.__cause__), parameter="image") from error
            raise

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"pixel_values": MultiModalFieldConfig.batched("image")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        config = self.info.get_hf_config()
        placeholder = config.image_token_id
        return [
            PromptReplacement(
                modality="image", target=[placeholder], replacement=[placeholder] * config.num_vision_tokens
            )
        ]
