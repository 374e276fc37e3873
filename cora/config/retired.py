"""Keys of older configuration files that do nothing any more, each with the reason or what stands in its place.

A key that a section declares never gets here. Paths are patterns: ``*`` stands for any stage or section.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

__all__ = ["RETIRED", "RETIRED_OF_BASELINES", "why_retired"]

_TOWER = "a vision encoder is loaded by Transformers, which knows its inputs, outputs and width; set models.vision_name"
_STITCHING = "token columns are chosen whole and never resized; set image_processing.stitching_mode"
_ENCODING = "there is one encoding of directions; models.use_projection_positional_encoding turns it off"

RETIRED = {
    "paths": "set output.runs_dir and data",
    "system_messages": "set training.system_msg",
    "debug_vicreg_loss": "the terms of a loss are logged; --debug shows more",
    "training*.debug_vicreg_loss": "the terms of a loss are logged; --debug shows more",
    "models.vision_backbone_type": _TOWER,
    "models.vision_backbone_kwargs": _TOWER,
    "models.vision_input_key": _TOWER,
    "models.vision_output_key": _TOWER,
    "models.vision_forward_method": _TOWER,
    "models.vision_hidden_size": _TOWER,
    "models.use_vicreg_norm": "nothing stands between vision encoder and resampler",
    "models.pe_*": _ENCODING,
    "models.overlap_ratio": "set image_processing.overlap_ratio",
    "models.stitching_mode": "set image_processing.stitching_mode",
    "models.stitch_*": _STITCHING,
    "models.use_vicreg_projector": "a loss on overlapping views always has its head; set models.vicreg_projector_*",
    "models.vicreg_projector_ln": "the head always has its LayerNorms",
    "models.use_text_projection": "it was never applied",
    "image_processing.use_vision_processor": "views are normalised as the vision encoder expects, always",
    "image_processing.normalize": "views are normalised as the vision encoder expects, always",
    "image_processing.stitch_*": _STITCHING,
    "lora.save_lora_only": "a checkpoint holds what its stage trains, an export the merged weights",
    "generation.do_sample": "generation.temperature 0 is greedy, above 0 samples",
    "training.max_epochs": "set training.stage_configs.<stage>.epochs",
    "training.eval_batch_size": "validation uses the batch_size of its stage",
    "training.cache_cleanup_interval": "the GPU's cache is cleaned before validation and now and then",
    "training.deepspeed": "it is not supported; set training.strategy to 'fsdp'",
    "training.auto_eval": "run cora-eval on the export",
    "output.outputs_dir": "give cora-eval --output-dir",
    "data.csv_test": "give cora-eval --test-csv",
    "data.max_text_length": "set training.stage_configs.<stage>.max_text_length",
    "data.auto_max_text_length_cap": "set training.stage_configs.<stage>.max_text_length",
}

_NO_BASELINES = "this version trains no baselines; cora-train trains CORA's own models"
_BASELINE_KEYS = (
    "experiment_name output_dir max_new_tokens max_length data_*_csv wandb_* model lora training data pano_view "
    "anyres_e2p panoadapt evaluation optimizer adam_* lr_scheduler_type eval_steps save_steps fp16 bf16 num_workers"
)

RETIRED_OF_BASELINES = dict.fromkeys(_BASELINE_KEYS.split(), _NO_BASELINES)
"""Of configurations of baselines."""


def why_retired(path: str, table: Mapping[str, str]) -> str | None:
    """Return what to do instead of setting the key at a dotted path, or None where a table of patterns lacks it."""
    return next((reason for pattern, reason in table.items() if fnmatchcase(path, pattern)), None)
