from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import LANGUAGE_FAMILIES, make_panorama, make_tokenizer

from cora.errors import ConfigError, ImageError
from cora.processors.processor import PanoramaProcessor
from cora.processors.text import IGNORE_INDEX

VIEWS = {"crop_strategy": "e2p", "image_size": [16, 24]}
T = 5


def make_processor(family: str = "qwen") -> PanoramaProcessor:
    return PanoramaProcessor(make_tokenizer(family), VIEWS, T, system_message="Be brief.")


@pytest.fixture(scope="module")
def processor() -> PanoramaProcessor:
    return make_processor()


def test_each_placeholder_becomes_as_many_as_there_are_vision_tokens(processor: PanoramaProcessor) -> None:
    one = processor.text_formatter.prompt_ids("What?")
    [row] = processor(text=processor.text_formatter.prompt("What?"))["input_ids"]
    start = one.index(processor.image_token_id)
    assert row == one[:start] + [processor.image_token_id] * T + one[start + 1 :]


def test_texts_are_padded_on_the_left(processor: PanoramaProcessor) -> None:
    texts = [processor.text_formatter.prompt(query) for query in ("What?", "What colour is the cube ahead of you?")]
    batch = processor(text=texts, return_tensors="pt", padding=True)
    alone = processor(text=texts[0], return_tensors="pt")["input_ids"][0]
    padding = batch["input_ids"].shape[1] - len(alone)
    assert padding > 0
    assert batch["attention_mask"][0].tolist() == [0] * padding + [1] * len(alone)
    assert torch.equal(batch["input_ids"][0, padding:], alone)
    assert set(batch["input_ids"][0, :padding].tolist()) == {processor.tokenizer.pad_token_id}


def test_ragged_texts_make_no_tensor(processor: PanoramaProcessor) -> None:
    with pytest.raises(ConfigError, match="padding=True"):
        processor(text=["a", "a b c d"], return_tensors="pt")


@pytest.mark.parametrize("options", [{"truncation": True}, {"max_length": 8}])
def test_a_prompt_is_never_cut(processor: PanoramaProcessor, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="never cut"):
        processor(text="What?", **options)


def test_the_template_brings_the_only_bos_token() -> None:
    processor = make_processor("llama")
    [row] = processor(text=processor.text_formatter.prompt("What?"))["input_ids"]
    assert row.count(processor.tokenizer.bos_token_id) == 1


def test_images_alone_are_what_the_image_processor_makes(processor: PanoramaProcessor) -> None:
    panoramas = [make_panorama(0), make_panorama(1)]
    batch = processor(images=panoramas, return_tensors="pt")
    assert list(batch) == ["pixel_values"]
    assert batch["pixel_values"].shape == (2, 8, 3, 16, 24)
    assert torch.equal(batch["pixel_values"], processor.image_processor(panoramas)["pixel_values"])


def test_nothing_in_is_an_error(processor: PanoramaProcessor) -> None:
    with pytest.raises(ConfigError, match="images, text or both"):
        processor()


def test_bad_panorama_is_named(processor: PanoramaProcessor, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.jpg"):
        processor(images=str(tmp_path / "absent.jpg"))


def test_training_labels_skip_prompt_and_panorama(processor: PanoramaProcessor) -> None:
    token_ids, labels = processor.encode_training("What?", "red cone")
    [prompt] = processor(text=processor.text_formatter.prompt("What?"))["input_ids"]
    assert token_ids[: len(prompt)] == prompt
    assert labels == [IGNORE_INDEX] * len(prompt) + token_ids[len(prompt) :]
    assert processor.tokenizer.decode(token_ids[len(prompt) : -1]) == "red cone"


@pytest.mark.parametrize("family", LANGUAGE_FAMILIES)
def test_saved_processor_is_the_same_when_loaded(family: str, tmp_path: Path) -> None:
    saved = make_processor(family)
    saved.save_pretrained(tmp_path)
    loaded = PanoramaProcessor.from_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == saved.chat_template == loaded.chat_template
    assert loaded.to_dict() == saved.to_dict()
    assert loaded.image_processor == saved.image_processor
    assert loaded.image_token_id == saved.image_token_id
    assert loaded.tokenizer.padding_side == "left"
    text = [saved.text_formatter.prompt("What <|im_end|>?"), saved.text_formatter.prompt("ü 😀")]
    assert text == [loaded.text_formatter.prompt("What <|im_end|>?"), loaded.text_formatter.prompt("ü 😀")]
    assert loaded(text=text)["input_ids"] == saved(text=text)["input_ids"]


def test_saved_template_is_what_a_loaded_formatter_renders(processor: PanoramaProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    template = tmp_path / "chat_template.jinja"
    template.write_text(template.read_text().replace("Be brief.", "Be long."))
    assert "Be long." in PanoramaProcessor.from_pretrained(tmp_path).text_formatter.prompt("What?")


def test_chat_template_of_the_processor_is_the_formatters(processor: PanoramaProcessor) -> None:
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert rendered == processor.text_formatter.prompt("What?")


def test_number_of_vision_tokens_is_needed() -> None:
    with pytest.raises(ConfigError, match="num_vision_tokens"):
        PanoramaProcessor(make_tokenizer("qwen"), VIEWS)


def test_unknown_image_option_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fov_deg'"):
        PanoramaProcessor(make_tokenizer("qwen"), {"fov_degs": 60}, T)
