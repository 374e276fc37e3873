"""The same weights give the same greedy tokens through Transformers and through vLLM, whatever the batch size."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TINY_RESAMPLERS, make_batch, make_model, make_panorama

from cora.config.schema import CORAConfig
from cora.errors import ConfigError
from cora.inference.generator import PanoramaGenerator
from cora.inference.protocol import GenerationRequest, GenerationSettings
from cora.model.vlm import PanoramaVLM
from cora.processors.images import PanoramaImageProcessor
from cora.training.module import PanoramaTrainingModule

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]

QUESTIONS = ("What is ahead?", "Which colour is the cone to the left?", "sky")
NUM_PANORAMAS = 20
BATCH_SIZES = (1, 3, 16)
SETTINGS = GenerationSettings(max_new_tokens=16)
# vLLM allows one engine per process to hold what it wants; the families run one after the other.
MODELS = {"qwen-tied": ("qwen", True), "qwen-untied": ("qwen", False), "llama": ("llama", True)}

Tokens = list[tuple[int, ...]]


def answers(generator: PanoramaGenerator, *, batch_size: int, num_panoramas: int) -> Tokens:
    requests = [GenerationRequest(make_panorama(seed), query) for seed in range(num_panoramas) for query in QUESTIONS]
    results = []
    for start in range(0, len(requests), batch_size):
        results += generator.generate(requests[start : start + batch_size], SETTINGS)
    assert [result.error for result in results] == [None] * len(requests)
    return [result.token_ids for result in results]


@pytest.fixture(scope="module", params=MODELS)
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, tied = MODELS[request.param]
    model, processor = make_model(family, tied=tied)
    folder = tmp_path_factory.mktemp(request.param)
    model.export(folder, processor)
    return folder


@pytest.fixture(scope="module")
def expected(export: Path) -> Tokens:
    generator = PanoramaGenerator.from_checkpoint(export, "transformers", device="cpu", batch_size=1)
    tokens = answers(generator, batch_size=1, num_panoramas=NUM_PANORAMAS)
    generator.close()
    return tokens


@pytest.fixture(scope="module")
def engine(export: Path) -> Iterator[PanoramaGenerator]:
    generator = PanoramaGenerator.from_checkpoint(export, "vllm", device="cpu")
    yield generator
    generator.close()


def test_the_comparison_has_power(expected: Tokens) -> None:
    # Answers that ignored the panorama, or the question, would agree for no good reason.
    assert len(set(expected)) > 0.8 * len(expected)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.abuse(29)
def test_transformers_batches_do_not_change_tokens(export: Path, expected: Tokens, batch_size: int) -> None:
    generator = PanoramaGenerator.from_checkpoint(export, "transformers", device="cpu", batch_size=batch_size)
    assert answers(generator, batch_size=batch_size, num_panoramas=NUM_PANORAMAS) == expected
    generator.close()


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_vllm_gives_the_tokens_of_transformers(engine: PanoramaGenerator, expected: Tokens, batch_size: int) -> None:
    assert answers(engine, batch_size=batch_size, num_panoramas=NUM_PANORAMAS) == expected


def train_one_step(model: PanoramaVLM, batch: dict[str, torch.Tensor]) -> None:
    """Take a step that moves every weight of the resampler; the overlap loss takes part where there is a grid."""
    weight = 1.0 if model.resampler.is_grid else 0.0
    config = CORAConfig.model_validate(
        {"training": {"stage_configs": {"resampler": {"vicreg_loss_weight": weight, "lr": 1e-2}}}}
    )
    module = PanoramaTrainingModule(model, config, "resampler").train()
    before = {name: value.clone() for name, value in model.resampler.named_parameters()}
    optimizer = torch.optim.AdamW([item for item in module.parameters() if item.requires_grad], lr=1e-2)
    loss = module._losses(batch)["loss"]
    assert loss.isfinite()
    loss.backward()
    optimizer.step()
    unmoved = [name for name, value in model.resampler.named_parameters() if torch.equal(value, before[name])]
    assert unmoved == []
    model.eval()


@pytest.mark.parametrize("kind", TINY_RESAMPLERS)
def test_every_resampler_trains_exports_and_answers_alike(kind: str, tmp_path: Path) -> None:
    options = {"type": kind, **TINY_RESAMPLERS[kind]}
    torch.manual_seed(0)
    is_grid = kind not in ("perceiver", "qformer")
    model, processor = make_model(resampler=options, projector={"stitching": "stride_views" if is_grid else "concat"})
    train_one_step(model, make_batch(processor))
    model.export(tmp_path, processor)
    generator = PanoramaGenerator.from_checkpoint(tmp_path, "transformers", device="cpu", batch_size=3)
    expected = answers(generator, batch_size=3, num_panoramas=4)
    generator.close()
    assert len(set(expected)) > 0.5 * len(expected)
    engine = PanoramaGenerator.from_checkpoint(tmp_path, "vllm", device="cpu")
    try:
        assert answers(engine, batch_size=12, num_panoramas=4) == expected
        assert answers(engine, batch_size=1, num_panoramas=2) == expected[: 2 * len(QUESTIONS)]
    finally:
        engine.close()


def test_panoramas_cut_in_the_engine_give_the_same_tokens(tmp_path: Path) -> None:
    model, processor = make_model()
    model.export(tmp_path, processor)
    # Of several sizes, some of which are halved on the way.
    requests = [
        GenerationRequest(make_panorama(seed, height=height), query)
        for seed, height in enumerate((64, 512, 64, 250, 512, 333))
        for query in QUESTIONS[:2]
    ]
    transformers = PanoramaGenerator.from_checkpoint(tmp_path, "transformers", device="cpu")
    expected = [result.token_ids for result in transformers.generate(requests, SETTINGS)]
    transformers.close()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "engine_crop": "on"}))
    engine = PanoramaGenerator.from_checkpoint(tmp_path, "vllm", device="cpu")
    seen: list[tuple[int, ...]] = []
    original = PanoramaImageProcessor.crop

    def crop(self: PanoramaImageProcessor, panorama: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(tuple(panorama.shape))
        return original(self, panorama, **options)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PanoramaImageProcessor, "crop", crop)
            assert [result.token_ids for result in engine.generate(requests, SETTINGS)] == expected
    finally:
        engine.close()
    assert sorted(shape[0] for shape in seen) == [64, 64, 125, 128, 128, 333]


def test_an_unknown_engine_crop_is_refused() -> None:
    from cora.vllm_plugin.processing import is_cut_in_engine

    assert is_cut_in_engine("on")
    assert is_cut_in_engine(True)
    assert not is_cut_in_engine(False)
    assert not is_cut_in_engine("auto")
    with pytest.raises(ConfigError, match=r"unknown engine_crop 'of' \(did you mean 'off'\?\); known: auto, on, off"):
        is_cut_in_engine("of")
