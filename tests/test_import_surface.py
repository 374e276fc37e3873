"""The public import paths: code written against them must go on working."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = [
    "cora.config.manager:ConfigManager",
    "cora.config.schema:BaselineConfig",
    "cora.config.schema:CORAConfig",
    "cora.config.schema:ModelConfig",
    "cora.config.schema:StageConfig",
    "cora.data.datamodule:PanoramaDataModule",
    "cora.data.dataset:PanoramaDataset",
    "cora.evaluation.metrics:CORAEvaluator",
    "cora.inference.generator:PanoramaGenerator",
    "cora.model.language_fusion:LanguageFusion",
    "cora.model.language_model:LanguageModel",
    "cora.model.positional:PanoramaPositionalEncoding",
    "cora.model.projectors:PanoramaProjector",
    "cora.model.projectors:VICRegProjector",
    "cora.model.resampler:ResamplerModule",
    "cora.model.vision_encoder:VisionBackbone",
    "cora.model.vlm:PanoramaVLM",
    "cora.processors.images:PanoramaImageProcessor",
    "cora.processors.processor:PanoramaProcessor",
    "cora.processors.text:UniversalTextFormatter",
    "cora.training.callbacks:CUDACacheCleanupCallback",
    "cora.training.losses:DenseCLLoss",
    "cora.training.losses:PanoContrastiveLoss",
    "cora.training.losses:VICRegLoss",
    "cora.training.module:PanoramaTrainingModule",
    "cora.training.trainer:CORATrainer",
]


@pytest.mark.parametrize("path", PUBLIC)
def test_public_path_exists(path):
    module_name, _, attribute = path.partition(":")
    module = importlib.import_module(module_name)
    assert isinstance(getattr(module, attribute, None), type), (
        f"{path} is public: keep a class of that name importable from there, or deprecate it for one minor release"
    )
