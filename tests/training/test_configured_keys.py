"""Every key that a configuration may have is read by what it configures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from click.testing import CliRunner
from tiny_models import make_model
from tiny_runs import make_config, write_workspace

from cora.cli.eval import main as evaluate
from cora.config import baseline, schema
from cora.config.manager import ConfigManager
from cora.config.schema import (
    CORAConfig,
    EndpointConfig,
    GenerationConfig,
    ImageProcessingConfig,
    JudgeConfig,
    StageConfig,
    StageImageConfig,
)
from cora.config.sections import Section
from cora.inference.protocol import GenerationSettings
from cora.training.losses.view_losses import ViewLosses
from cora.training.trainer import CORATrainer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Free text that is kept with the run, in its config.yaml.
RECORDED = {("ExperimentConfig", "version")}
# Sections of `cora judge` and of the back end openai, which talk to a server and not to a run of training.
OF_SERVERS = (EndpointConfig, JudgeConfig)
# Sections that are handed on whole, to something with arguments of the same names.
WHOLE = (GenerationConfig, StageImageConfig)


def sections() -> Iterator[type[Section]]:
    for module in (schema, baseline):
        for item in vars(module).values():
            if isinstance(item, type) and issubclass(item, Section) and item.__module__ == module.__name__:
                yield item


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """The (section, key) pairs that are read from now on, by anything but validators."""
    found: set[tuple[str, str]] = set()

    def spy(self: Section, name: str) -> Any:
        caller = sys._getframe(1)
        is_validator = caller.f_globals["__name__"].startswith("cora.config") and caller.f_code.co_name.startswith("_")
        if name in type(self).model_fields and not is_validator:
            found.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Section, "__getattribute__", spy, raising=False)
    return found


def test_every_key_is_read(tmp_path: Path, reads: set[tuple[str, str]]) -> None:
    workspace = write_workspace(tmp_path / "workspace")
    epochs = [f"training.stage_configs.{stage}.epochs=1" for stage in ("vision", "resampler", "finetune")]
    config = make_config(workspace, tmp_path, *epochs)
    result = CORATrainer(config, show_progress=False).train()
    command = ["--checkpoint", result.export_dir, "--test-csv", workspace / "val.csv", "--limit", 1, "--output-dir"]
    command += [tmp_path / "eval", "--backend", "transformers"]
    answered = CliRunner().invoke(evaluate, [*map(str, command)], prog_name="cora-eval")
    assert answered.exit_code == 0, answered.output
    # A run has one loss on overlapping views; here are all.
    model, _ = make_model(image_processing={"crop_strategy": "anyres_e2p"})
    for loss in get_args(StageConfig.model_fields["vision_loss_type"].annotation):
        stage = StageConfig(vision_loss_type=loss, vicreg_loss_weight=1.0, global_local_loss_weight=1.0)
        ViewLosses(model.config, stage, "vision")
    left_out = (*WHOLE, *OF_SERVERS)
    kept = [section for section in sections() if section not in left_out]
    expected = {(section.__name__, name) for section in kept for name in section.model_fields}
    expected -= {("CORAConfig", "endpoint"), ("CORAConfig", "judge")}
    assert expected - reads == RECORDED


def test_sections_that_are_handed_on_whole_have_the_names_of_their_takers() -> None:
    assert set(GenerationConfig.model_fields) <= set(GenerationSettings.__dataclass_fields__)
    assert set(StageImageConfig.model_fields) == set(ImageProcessingConfig.model_fields)


@pytest.mark.parametrize("path", sorted((CONFIGS / "loss").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_losses_that_are_shipped_can_be_computed(path: Path) -> None:
    config: CORAConfig = ConfigManager.load(path, strict=True)
    section = config.image_processing
    options = {
        "crop_strategy": section.crop_strategy,
        "image_size": list(section.image_size or ()),
        "fov_deg": section.fov_deg,
        "overlap_ratio": section.overlap_ratio,
    }
    model, _ = make_model(image_processing=options)
    losses = ViewLosses(model.config, config.training.stage_configs["vision"], "vision")
    layout = model.config.token_layout
    latents = torch.randn(2, len(layout.views), layout.tokens_per_view, 24)
    values = losses(torch.nn.Dropout(0.1), latents)
    assert set(values) == set(losses.weights)
    assert ("global_local" in values) == (path.stem == "global_local")
    assert path.stem.startswith((config.training.stage_configs["vision"].vision_loss_type, "global_local"))
    assert all(bool(torch.isfinite(value)) for value in values.values())
