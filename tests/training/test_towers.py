"""The tiny towers: pretrained in seconds, saved as ordinary directories, and better than chance at their task."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, SiglipVisionModel

from cora.data.synthetic import write_split
from cora.processors.images import PanoramaImageProcessor
from cora.training.towers import make_language_tower, make_vision_tower
from cora.training.towers.language import LanguageTowerOptions
from cora.training.towers.vision import VisionTowerOptions

LANGUAGE = LanguageTowerOptions(width=64, num_layers=1, num_heads=2, num_scenes=30, steps=40, batch_size=16)


def test_the_language_tower_learns_how_answers_sound(tmp_path: Path) -> None:
    loss = make_language_tower(tmp_path, system_message="Look.", options=LANGUAGE, first_seed=0)
    # A uniform guess over the vocabulary costs more than 5 nats per token.
    assert loss < 3.0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    assert tokenizer.decode(tokenizer("What is ahead?")["input_ids"]) == "What is ahead?"


def test_the_same_seed_makes_the_same_language_tower(tmp_path: Path) -> None:
    short = LanguageTowerOptions(width=32, num_layers=1, num_heads=2, num_scenes=5, steps=3, batch_size=4)
    for name in ("a", "b"):
        make_language_tower(tmp_path / name, system_message=None, options=short, first_seed=3)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_vision_tower_learns_what_views_show(tmp_path: Path) -> None:
    split = write_split(tmp_path, "train", num_scenes=64, first_seed=0, height=64, width=128, workers=1)
    processor = PanoramaImageProcessor(crop_strategy="e2p", image_size=(48, 48))
    scores = [
        make_vision_tower(
            tmp_path / str(steps),
            split,
            processor,
            options=VisionTowerOptions(width=64, num_layers=2, num_heads=2, steps=steps, batch_size=64),
        )
        for steps in (10, 120)
    ]
    assert scores[1] > scores[0] + 0.1
    tower = SiglipVisionModel.from_pretrained(tmp_path / "120")
    assert tower.config.image_size == 48
