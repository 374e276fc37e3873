from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import (
    LANGUAGE_FAMILIES,
    VISION_TYPES,
    make_model,
    make_panorama,
    make_text_config,
    make_tokenizer,
    make_vision_config,
)
from transformers import AutoModel, AutoModelForCausalLM

from cora.errors import CheckpointError, ConfigError
from cora.model.configuration import PanoramaVLMConfig
from cora.model.vision_encoder import VisionBackbone
from cora.model.vlm import PanoramaVLM
from cora.processors.processor import PanoramaProcessor

Parts = tuple[PanoramaVLM, PanoramaProcessor]
QUESTIONS = ("What colour is the cube ahead of you?", "Describe the scene in one sentence.", "Left?")


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_model()


def make_inputs(processor: PanoramaProcessor, count: int) -> dict[str, torch.Tensor]:
    batch = processor(
        images=[make_panorama(index) for index in range(count)],
        text=[processor.text_formatter.prompt(QUESTIONS[index % 3]) for index in range(count)],
        return_tensors="pt",
        padding=True,
    )
    return dict(batch)


def answer(model: PanoramaVLM, inputs: dict[str, torch.Tensor], **options: Any) -> list[list[int]]:
    with torch.inference_mode():
        sequences = model.generate(**inputs, max_new_tokens=8, do_sample=False, **options)
    return [row[inputs["input_ids"].shape[1] :].tolist() for row in sequences]


@pytest.mark.parametrize("vision", VISION_TYPES)
@pytest.mark.parametrize(("family", "tied"), [("qwen", True), ("llama", False), ("gemma", True)])
def test_a_loaded_model_is_the_saved_one(vision: str, family: str, tied: bool, tmp_path: Path) -> None:
    model, processor = make_model(family, vision=vision, tied=tied)
    model.save_pretrained(tmp_path)
    loaded = PanoramaVLM.from_pretrained(tmp_path).eval()
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) == tied
    # A serving engine reads the file itself, so what is not the tower's must be named as the modules are.
    stored = load_file(tmp_path / "model.safetensors")
    tower = {name.removeprefix("vision.model."): w for name, w in stored.items() if name.startswith("vision.model.")}
    expected = {name for name in ours if not name.startswith("vision.model.")}
    assert stored.keys() - {f"vision.model.{name}" for name in tower} == expected - (
        {"language_model.model.lm_head.weight"} if tied else set()
    )
    fresh = VisionBackbone(loaded.vision.config).eval()
    fresh.load_checkpoint_weights(tower)
    assert all(torch.equal(value, ours[f"vision.{name}"]) for name, value in fresh.state_dict().items())
    inputs = make_inputs(processor, 2)
    assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)


@pytest.mark.parametrize(
    ("resampler", "projector"),
    [
        ({"type": "identity"}, {"stitching": "stride_views"}),
        ({"type": "bimamba", "hidden_dim": 16, "num_layers": 1, "d_state": 4}, {"stitching": "concat"}),
        (
            {"type": "perceiver", "num_latents": 3, "heads": 2, "dim_head": 8, "depth": 1},
            {"stitching": "concat", "positional_encoding": False},
        ),
    ],
)
def test_every_resampler_and_stitching_saves_and_generates(
    resampler: dict[str, Any], projector: dict[str, Any], tmp_path: Path
) -> None:
    model, processor = make_model(
        resampler=resampler, projector=projector, image_processing={"crop_strategy": "anyres_e2p"}
    )
    tokens = model.embed_panoramas(torch.randn(2, 9, 3, 32, 32))
    assert tokens.shape == (2, model.config.num_vision_tokens, 32)
    model.save_pretrained(tmp_path)
    loaded = PanoramaVLM.from_pretrained(tmp_path).eval()
    assert loaded.config.num_vision_tokens == model.config.num_vision_tokens
    inputs = make_inputs(processor, 2)
    assert answer(loaded, inputs) == answer(model, inputs)


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1, 1, 1, 1, 1]), (2 * 9 * 16 + 1, [2, 2, 1]), (2048, [5])])
def test_small_panoramas_are_encoded_together(limit: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = make_model(image_processing={"crop_strategy": "anyres_e2p"})
    assert model.config.vision_grid_hw == (4, 4)
    panoramas = torch.randn(5, 9, 3, 32, 32)
    monkeypatch.setattr("cora.model.embedder._PATCH_TOKENS_AT_ONCE", limit)
    embed, found = model.embed_panoramas, []
    monkeypatch.setattr(model, "embed_panoramas", lambda views: found.append(len(views)) or embed(views))
    together = torch.stack(list(model.embed_each(panoramas)))
    assert found == sizes
    torch.testing.assert_close(together, torch.cat([embed(views[None]) for views in panoramas]))


@pytest.mark.parametrize("family", LANGUAGE_FAMILIES)
def test_batch_size_does_not_change_greedy_answers(family: str) -> None:
    model, processor = make_model(family)
    inputs = make_inputs(processor, 16)
    together = answer(model, inputs)
    # Random weights answer every panorama differently, or this test would show nothing.
    assert len({tuple(row) for row in together}) >= 8
    for size, starts in ((1, (0, 5, 10, 15)), (3, (0, 6, 12))):
        for start in starts:
            chunk = {name: value[start : start + size] for name, value in inputs.items()}
            longest = int(chunk["attention_mask"].sum(dim=1).max())
            chunk = {name: value[:, -longest:] if value.ndim == 2 else value for name, value in chunk.items()}
            assert answer(model, chunk) == together[start : start + size]


def test_answers_depend_on_the_panorama_and_on_its_place_in_the_sequence(parts: Parts) -> None:
    model, processor = parts
    inputs = make_inputs(processor, 2)
    logits = model(**inputs).logits
    swapped = model(**{**inputs, "pixel_values": inputs["pixel_values"].flip(0)}).logits
    turned = model(**{**inputs, "pixel_values": inputs["pixel_values"].roll(1, dims=1)}).logits
    assert (logits - swapped)[:, -1].abs().max() > 0.01
    assert (logits - turned)[:, -1].abs().max() > 0.01


def test_generation_without_a_cache_is_the_same(parts: Parts) -> None:
    model, processor = parts
    inputs = make_inputs(processor, 2)
    assert answer(model, inputs) == answer(model, inputs, use_cache=False)


def test_cached_features_stand_in_for_pixels(parts: Parts) -> None:
    model, processor = parts
    inputs = make_inputs(processor, 2)
    features = model.encode_views(inputs["pixel_values"])
    assert features.shape == (2, 8, 16, 32)
    without = {name: value for name, value in inputs.items() if name != "pixel_values"}
    torch.testing.assert_close(model(**inputs).logits, model(**without, vision_features=features).logits)
    assert answer(model, inputs) == answer(model, {**without, "vision_features": features})
    embeddings = model.fusion(
        inputs["input_ids"], model.language_model.embed(inputs["input_ids"]), model.embed_features(features)
    )
    by_embedding = model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(model(**inputs).logits, by_embedding)


def encode_training(processor: PanoramaProcessor, answers: list[str]) -> dict[str, torch.Tensor]:
    rows = [processor.encode_training("What?", text) for text in answers]
    longest = max(len(token_ids) for token_ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows]),
        "pixel_values": processor(images=[make_panorama(index) for index in range(len(rows))])["pixel_values"],
    }


@pytest.mark.parametrize("family", LANGUAGE_FAMILIES)
def test_answer_loss_is_the_language_models_loss(family: str) -> None:
    model, processor = make_model(family)
    batch = encode_training(processor, ["a red cone", "the blue sphere is behind", "no"])
    torch.testing.assert_close(model.answer_loss(**batch), model(**batch).loss)
    with pytest.raises(ValueError, match="no position is labelled"):
        model.answer_loss(**{**batch, "labels": torch.full_like(batch["labels"], -100)})


@pytest.mark.parametrize("vision", VISION_TYPES)
def test_the_loss_reaches_every_parameter(vision: str) -> None:
    resampler = {"type": "bimamba", "hidden_dim": 16, "num_layers": 1, "d_state": 4}
    model, processor = make_model(vision=vision, resampler=resampler)
    model.train()
    model.answer_loss(**encode_training(processor, ["a red cone", "no"])).backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    # A key bias shifts all scores of a query alike, so its gradient is zero but for rounding.
    assert [name for name in idle if not name.endswith(("k_proj.bias", "key.bias"))] == []


@pytest.mark.parametrize("family", LANGUAGE_FAMILIES)
def test_questions_packed_behind_one_panorama_do_not_see_each_other(family: str) -> None:
    model, processor = make_model(family)
    pixel_values = processor(images=make_panorama(0))["pixel_values"]
    alone = [torch.tensor([processor.encode_training(query, "red")[0]]) for query in ("What?", "Which colour is it?")]
    shared = int((alone[0] == processor.image_token_id).nonzero()[-1, 1]) + 1
    tails = [ids[:, shared:] for ids in alone]
    packed = torch.cat([alone[0][:, :shared], *tails], dim=1)
    segment = torch.cat([torch.zeros(shared), *(torch.full((tail.shape[1],), i + 1.0) for i, tail in enumerate(tails))])
    mask = torch.ones(packed.shape[1], packed.shape[1]).tril().bool()
    mask &= (segment[None, :] == 0) | (segment[None, :] == segment[:, None])
    positions = torch.cat([torch.arange(shared), *(torch.arange(shared, shared + tail.shape[1]) for tail in tails)])
    logits = model(
        packed, attention_mask=mask[None, None], position_ids=positions[None], pixel_values=pixel_values
    ).logits[0]
    start = shared
    for ids, tail in zip(alone, tails, strict=True):
        expected = model(ids, pixel_values=pixel_values).logits[0, shared:]
        torch.testing.assert_close(logits[start : start + tail.shape[1]], expected, rtol=1e-4, atol=1e-4)
        start += tail.shape[1]


def write_towers(directory: Path, *, tied: bool = True) -> dict[str, Any]:
    torch.manual_seed(0)
    AutoModel.from_config(make_vision_config("siglip")).save_pretrained(directory / "vision")
    tokenizer = make_tokenizer("qwen", thinking=True)
    config = make_text_config("qwen", vocab_size=len(tokenizer), tied=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory / "language")
    tokenizer.save_pretrained(directory / "language")
    return {"vision_name": str(directory / "vision"), "language_model_name": str(directory / "language")}


def test_pretrained_towers_become_a_model_that_exports(tmp_path: Path) -> None:
    names = write_towers(tmp_path)
    model, tokenizer = PanoramaVLM.from_components(
        **names, image_processing={"crop_strategy": "e2p"}, resampler={"type": "identity"}, latent_dim=32
    )
    towers = {
        "vision.model.": AutoModel.from_pretrained(names["vision_name"]).state_dict(),
        "language_model.model.": AutoModelForCausalLM.from_pretrained(names["language_model_name"]).state_dict(),
    }
    ours = model.state_dict()
    for prefix, weights in towers.items():
        for name, value in weights.items():
            if not name.startswith("head."):
                assert torch.equal(ours[prefix + name][: len(value)] if value.ndim else ours[prefix + name], value), (
                    name
                )
    assert model.config.image_processing["image_size"] == [32, 32]
    assert tokenizer.convert_tokens_to_ids("<|vision|>") == model.config.image_token_id
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)

    processor = model.build_processor(tokenizer, system_message="Look around.")
    model.language_model.add_lora(rank=2, alpha=4)
    for name, parameter in model.language_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.eval()
    inputs = make_inputs(processor, 2)
    trained = model(**inputs).logits
    with pytest.raises(ConfigError, match="merge the LoRA adapters"):
        model.save_pretrained(tmp_path / "export")
    model.export(tmp_path / "export", processor)
    loaded = PanoramaVLM.from_pretrained(tmp_path / "export").eval()
    torch.testing.assert_close(loaded(**inputs).logits, trained, rtol=1e-4, atol=1e-4)

    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("cora", ["PanoramaVLM"])
    assert str(tmp_path) not in (tmp_path / "export" / "config.json").read_text()
    assert config["text_config"]["architectures"] == ["Qwen3ForCausalLM"]
    assert loaded.generation_config.eos_token_id == list(processor.text_formatter.stop_token_ids)
    assert PanoramaProcessor.from_pretrained(tmp_path / "export").to_dict() == processor.to_dict()


def test_pretrained_towers_attend_as_they_should(tmp_path: Path) -> None:
    model, tokenizer = PanoramaVLM.from_components(
        **write_towers(tmp_path), image_processing={"crop_strategy": "e2p"}, resampler={"type": "identity"}
    )
    ids = torch.tensor([tokenizer("What colour is the cube?").input_ids])
    changed = ids.clone()
    changed[0, -1] += 1
    model.eval()
    torch.testing.assert_close(model(ids).logits[:, :-1], model(changed).logits[:, :-1])
    implementations = {model.vision.model.config._attn_implementation, model.language_model.config._attn_implementation}
    assert implementations == {"sdpa"}


def test_export_refuses_a_processor_of_another_model(parts: Parts, tmp_path: Path) -> None:
    model, processor = parts
    other = PanoramaProcessor(processor.tokenizer, processor.image_processing, processor.num_vision_tokens + 1)
    with pytest.raises(ConfigError, match="vision tokens per panorama"):
        model.export(tmp_path, other)
    other = PanoramaProcessor(
        processor.tokenizer, {**processor.image_processing, "antialias": False}, processor.num_vision_tokens
    )
    with pytest.raises(ConfigError, match="cuts panoramas differently"):
        model.export(tmp_path, other)


def test_missing_towers_are_named(tmp_path: Path) -> None:
    names = write_towers(tmp_path)
    with pytest.raises(CheckpointError, match="absent"):
        PanoramaVLM.from_components(**{**names, "vision_name": str(tmp_path / "absent")})
    with pytest.raises(CheckpointError, match="absent"):
        PanoramaVLM.from_components(**{**names, "language_model_name": str(tmp_path / "absent")})


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        PanoramaVLM.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="nowhere"):
        PanoramaVLM.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(("change", "complaint"), [("drop", "missing"), ("add", "unexpected"), ("cut", "mismatched")])
def test_weights_that_do_not_fit_are_refused(parts: Parts, tmp_path: Path, change: str, complaint: str) -> None:
    parts[0].save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if change == "drop":
        del weights["projector.linear.bias"]
    elif change == "add":
        weights["projector.extra"] = torch.zeros(1)
    else:
        weights["projector.linear.bias"] = weights["projector.linear.bias"][:-1].clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"1 weights are {complaint}, first: .*projector"):
        PanoramaVLM.from_pretrained(tmp_path)


def test_placeholders_need_a_panorama(parts: Parts) -> None:
    model, processor = parts
    inputs = make_inputs(processor, 1)
    with pytest.raises(ValueError, match=f"{processor.num_vision_tokens} placeholders, but there is no panorama"):
        model(inputs["input_ids"])
    with pytest.raises(ValueError, match="not both"):
        model(**inputs, vision_features=torch.zeros(1))
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        model(pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match=r"float\[B, V, 3, height, width\]"):
        model.encode_views(inputs["pixel_values"][0])


def test_text_alone_works(parts: Parts) -> None:
    model, processor = parts
    ids = torch.tensor([processor.text_formatter.prompt_ids("What?", has_panorama=False)])
    assert model(ids).logits.shape == (1, ids.shape[1], model.config.text_config.vocab_size)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"image_token_id": None}, "image_token_id is missing"),
        ({"projector": {"stiching": "concat"}}, "no option 'stiching' .did you mean 'stitching'"),
        ({"resampler": {"type": "perciever"}}, "did you mean 'perceiver'"),
        ({"resampler": {"type": "perceiver"}}, "keeps no grid"),
        ({"image_processing": {"crop_strategy": "e2p", "image_size": [4, 4]}}, "smaller than a patch"),
    ],
)
def test_impossible_configurations_are_refused(options: dict[str, Any], complaint: str) -> None:
    settings = {
        "vision_config": make_vision_config("siglip"),
        "text_config": make_text_config("qwen", vocab_size=50),
        "image_processing": {"crop_strategy": "e2p", "image_size": [32, 32]},
        "resampler": {"type": "identity"},
        "latent_dim": 32,
        "image_token_id": 49,
    }
    with pytest.raises(ConfigError, match=complaint):
        PanoramaVLM(PanoramaVLMConfig(**{**settings, **options}))


def test_a_size_that_is_no_multiple_of_the_patch_is_told(caplog: pytest.LogCaptureFixture) -> None:
    config = PanoramaVLMConfig(
        vision_config=make_vision_config("siglip"),
        image_processing={"crop_strategy": "e2p", "image_size": [36, 44]},
        resampler={"type": "identity"},
    )
    with caplog.at_level("WARNING", logger="cora.model.configuration"):
        assert config.token_layout.grid_hw == (4, 5)
    assert "only 32x40 of it is seen" in caplog.text
    assert config.token_layout.view_size == (32, 40)
