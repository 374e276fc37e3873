"""The settings of a published vision-language model finetuned on panoramas as a baseline.

Reached as `cora.config.schema.BaselineConfig`, beside the configuration of CORA's own models. Nothing trains a baseline
yet: its keys are checked, and `ConfigManager.load_baseline` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from cora.config.retired import RETIRED_OF_BASELINES
from cora.config.sections import Section

_DTYPE_SPELLINGS = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32"}


def _dtype(value: Any) -> Any:
    return _DTYPE_SPELLINGS.get(value, value) if isinstance(value, str) else value


Dtype = Annotated[Literal["float16", "bfloat16", "float32"], BeforeValidator(_dtype)]


class BaselineModelConfig(Section):
    """Which published model."""

    name: str = "qwen2.5-vl-7b"
    """Name of the run's folder."""
    hf_model_id: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    """Hub id or local directory of the model."""
    processor_id: str | None = None
    """Hub id or local directory of its processor; None takes `hf_model_id`."""
    model_type: str = "qwen_vl"
    """Family, which decides the prompt format and the adapter's layers."""
    dtype: Dtype = "float16"
    """Number format of the frozen weights (``fp16``, ``half``, ``bf16`` and ``fp32`` are read too)."""
    lora_target_modules: list[str] | None = None
    """Layers that get adapters where `lora.target_modules` names none."""
    image_size: int = Field(224, gt=0)
    """Side of a picture in pixels, unless the resolution is dynamic."""
    dynamic_resolution: bool = False
    """Whether the model's own processor chooses the resolution."""
    min_pixels: int | None = Field(None, gt=0)
    """Fewest pixels of a dynamic resolution."""
    max_pixels: int | None = Field(None, gt=0)
    """Most pixels of a dynamic resolution."""


class BaselineLoRAConfig(Section):
    """Low-rank adapters."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale times rank."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Dropout probability before an adapter."""
    target_modules: list[str] | None = None
    """Layers that get adapters; None takes `model.lora_target_modules`, then the default of the family."""


class BaselineTrainingConfig(Section):
    """Optimisation."""

    num_epochs: float = Field(1.0, gt=0.0)
    """Passes over the training data."""
    batch_size: int = Field(1, ge=1)
    """Samples per step and device."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Batches whose gradients are summed before an optimiser step."""
    learning_rate: float = Field(5e-5, gt=0.0)
    """Peak learning rate."""
    weight_decay: float = Field(0.0, ge=0.0)
    """Decoupled weight decay."""
    warmup_ratio: float = Field(0.0, ge=0.0, le=1.0)
    """Fraction of the steps over which the learning rate rises."""
    max_grad_norm: float = Field(1.0, gt=0.0)
    """Largest gradient norm."""
    seed: int = Field(42, ge=0)
    """Seed of weights and data order."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed to save memory."""
    mixed_precision: Literal["fp16", "bf16"] | None = None
    """Number format of the activations; None takes that of the weights."""
    logging_steps: int = Field(10, ge=1)
    """Steps between two log lines."""
    save_strategy: Literal["no", "epoch", "steps"] = "epoch"
    """When checkpoints are written."""
    save_total_limit: int | None = Field(1, ge=1)
    """Checkpoints that are kept; None keeps all."""
    eval_strategy: Literal["no", "epoch", "steps"] = "no"
    """When the validation loss is computed."""
    max_length: int | None = Field(512, gt=0)
    """Most tokens of a sample; a longer one is an error that names its row. None: what the model can read."""
    dataloader_num_workers: int = Field(4, ge=0)
    """Processes that load data."""
    dataloader_pin_memory: bool = False
    """Whether batches are placed in page-locked memory."""


class BaselineDataConfig(Section):
    """Columns and how many rows."""

    image_column: str = "url"
    """Column of the image path."""
    instruction_column: str = "instruction"
    """Column of the question."""
    response_column: str = "response"
    """Column of the answer."""
    max_train_samples: int | None = Field(None, ge=1)
    """Rows to train on; None takes all."""
    max_eval_samples: int | None = Field(None, ge=1)
    """Rows to evaluate on; None takes all."""


class PanoViewConfig(Section):
    """How a panorama becomes the several pictures a baseline is shown."""

    strategy: Literal["anyres_e2p", "cubemap", "pinhole"] = "anyres_e2p"
    """Which views."""
    include_global: bool = True
    """Whether the whole panorama comes first."""
    hfov_deg: float = Field(45.0, gt=0.0, lt=180.0)
    """Horizontal field of view of a view."""
    overlap: float = Field(0.0, ge=0.0, lt=1.0)
    """Fraction of it that the neighbour sees too."""
    closed_loop_yaw: bool = True
    """Whether the views go all the way round, evenly spaced."""
    pitch_min: float = Field(0.0, ge=-90.0, le=90.0)
    """Lowest row of views, degrees."""
    pitch_max: float = Field(0.0, ge=-90.0, le=90.0)
    """Highest row of views, degrees."""
    base_size: int = Field(336, gt=0)
    """Side of the global picture in pixels."""
    tile_render_size: int = Field(672, gt=0)
    """Side at which a view is rendered before it is scaled to what the encoder reads."""
    vit_size: int | None = Field(None, gt=0)
    """Side the encoder reads; None takes `model.image_size`."""


class PanoAdaptConfig(Section):
    """Changes to a baseline that make it aware of directions."""

    model_type: str = "qwen_vl"
    """Family of the adapted model."""
    spatial_pe: bool = False
    """Whether tokens of the same direction get the same position."""
    overlap_loss: bool = False
    """Whether overlapping views are trained to agree."""
    overlap_loss_type: Literal["densecl", "vicreg_batchwise", "vicreg_pairwise"] = "vicreg_pairwise"
    """Which loss."""
    overlap_loss_weight: float = Field(0.0, ge=0.0)
    """Its weight."""
    overlap_loss_temperature: float = Field(0.07, gt=0.0)
    """Softmax temperature of ``densecl``."""
    overlap_ratio: float = Field(0.5, ge=0.0, lt=1.0)
    """Overlap the linear column match assumes."""
    vicreg_sim_weight: float = Field(25.0, ge=0.0)
    """Weight of the invariance term."""
    vicreg_var_weight: float = Field(25.0, ge=0.0)
    """Weight of the variance term."""
    vicreg_cov_weight: float = Field(1.0, ge=0.0)
    """Weight of the covariance term."""
    ortho_lora: bool = False
    """Whether adapters of successive tasks are kept orthogonal."""


class BaselineConfig(Section):
    """Everything a baseline run needs."""

    retired_keys: ClassVar[Mapping[str, str]] = RETIRED_OF_BASELINES

    experiment_name: str = "baseline_finetune"
    """Recorded with the run."""
    output_dir: str = "runs/baseline"
    """Directory of all baseline runs."""
    max_new_tokens: int = Field(128, ge=1)
    """Most tokens of an answer."""
    data_train_csv: str = "data/quic360/train.csv"
    """Training table."""
    data_val_csv: str | None = None
    """Validation table."""
    data_test_csv: str | None = None
    """Test table."""
    wandb_project: str | None = None
    """Project that runs are logged to."""
    wandb_enabled: bool = False
    """Whether they are."""
    model: BaselineModelConfig = Field(default_factory=BaselineModelConfig)
    lora: BaselineLoRAConfig = Field(default_factory=BaselineLoRAConfig)
    training: BaselineTrainingConfig = Field(default_factory=BaselineTrainingConfig)
    data: BaselineDataConfig = Field(default_factory=BaselineDataConfig)
    pano_view: PanoViewConfig | None = None
    anyres_e2p: PanoViewConfig | None = None
    """Older name of `pano_view`, which wins where both are given."""
    panoadapt: PanoAdaptConfig | None = None

    @property
    def views(self) -> PanoViewConfig | None:
        """Return how a panorama is cut, or None when the model sees it as one picture."""
        return self.pano_view or self.anyres_e2p
