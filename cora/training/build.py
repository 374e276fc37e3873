"""From a configuration to a model with its processor."""

from __future__ import annotations

import logging
from typing import Any

import torch

from cora.config.schema import CORAConfig, ImageProcessingConfig, StageName
from cora.errors import BackendUnavailable, ConfigError
from cora.model.resampler import checked_options
from cora.model.vlm import PanoramaVLM
from cora.processors.processor import PanoramaProcessor
from cora.processors.strategies import STRATEGIES

__all__ = ["build_model", "enter_stage", "image_options", "pick_accelerator", "pick_precision"]

logger = logging.getLogger(__name__)


def image_options(section: ImageProcessingConfig) -> dict[str, Any]:
    """Return the `PanoramaImageProcessor` options a section names; the tower's own fill the rest."""
    options: dict[str, Any] = {
        "crop_strategy": section.crop_strategy,
        "fov_deg": section.fov_deg,
        "overlap_ratio": section.overlap_ratio,
        "max_patches": section.anyres_max_patches,
        "pitch_min_deg": section.pitch_min_deg,
        "pitch_max_deg": section.pitch_max_deg,
        "antialias": section.antialias,
    }
    if section.image_size is not None:
        options["image_size"] = list(section.image_size)
    return options


def build_model(config: CORAConfig) -> tuple[PanoramaVLM, PanoramaProcessor]:
    """Return a model of pretrained towers with new weights between them, and the processor that feeds it.

    The new weights depend on ``training.seed`` alone.

    Raises:
        RegistryError: The crop strategy or the resampler is unknown.
        ConfigError: A part is not supported or an option unknown.
        CheckpointError: A tower cannot be loaded.
    """
    models = config.models
    # Looked up before the towers are loaded, which may take minutes.
    for name in config.training.stages:
        STRATEGIES.get(config.stage_image_processing(name).crop_strategy)
    resampler = {"type": models.resampler_type, **models.resampler_config}
    checked_options(resampler)
    torch.manual_seed(config.training.seed)
    model, tokenizer = PanoramaVLM.from_components(
        vision_name=models.vision_name,
        language_model_name=models.language_model_name,
        image_processing=image_options(config.image_processing),
        resampler=resampler,
        latent_dim=models.latent_dimension,
        projector={
            "stitching": config.image_processing.stitching_mode,
            "positional_encoding": models.use_projection_positional_encoding,
        },
        trust_remote_code=models.trust_remote_code,
    )
    return model, model.build_processor(tokenizer, system_message=config.training.system_msg)


def enter_stage(
    model: PanoramaVLM, processor: PanoramaProcessor, config: CORAConfig, stage: StageName
) -> PanoramaProcessor:
    """Let a model see panoramas as a stage cuts them, and return the processor that does so.

    An export made afterwards has the settings of that stage: answers are given to what the model was last trained on.

    Raises:
        ConfigError: Views of that kind do not suit the vision encoder or the resampler.
    """
    section = config.stage_image_processing(stage)
    model.set_image_processing(image_options(section), stitching=section.stitching_mode)
    return model.build_processor(processor.tokenizer, system_message=config.training.system_msg)


def pick_accelerator(config: CORAConfig) -> str:
    """Return ``cuda`` or ``cpu``; a choice made here is logged with its reason.

    Raises:
        BackendUnavailable: A GPU is asked for and there is none.
    """
    wanted = config.training.accelerator
    has_cuda = torch.cuda.is_available()
    if wanted in ("gpu", "cuda"):
        if not has_cuda:
            raise BackendUnavailable(
                f"training.accelerator is '{wanted}', but torch {torch.__version__} sees no CUDA device; "
                "use 'cpu', or install a CUDA build of torch and a driver"
            )
        return "cuda"
    if wanted == "auto":
        logger.info("training on %s", "the GPU: torch sees one" if has_cuda else "the CPU: torch sees no CUDA device")
        return "cuda" if has_cuda else "cpu"
    return "cpu"


_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def pick_precision(config: CORAConfig, accelerator: str) -> Any:
    """Return Lightning's precision name; it is logged with the reason.

    Raises:
        ConfigError: float16 is asked for on a CPU.
    """
    wanted = config.training.precision
    if wanted != "auto":
        chosen, reason = _PRECISIONS.get(wanted, wanted), f"training.precision is '{wanted}'"
    elif accelerator == "cpu":
        chosen, reason = "32-true", "CPU"
    elif torch.cuda.is_bf16_supported(including_emulation=False):
        chosen, reason = "bf16-mixed", "the GPU has bfloat16"
    else:
        chosen, reason = "16-mixed", "the GPU has no bfloat16"
    if accelerator == "cpu" and chosen in ("16", "16-mixed", "16-true"):
        raise ConfigError(f"training.precision '{wanted}' needs a GPU: on a CPU use 'bf16' or 'fp32'")
    logger.info("precision %s: %s", chosen, reason)
    return chosen
