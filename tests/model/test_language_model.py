from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import LANGUAGE_FAMILIES, make_text_config
from transformers import AutoModelForCausalLM

from cora.errors import ConfigError
from cora.model.language_fusion import LanguageFusion
from cora.model.language_model import LanguageModel

IDS = torch.tensor([[3, 5, 7, 11]])


def make_language_model(family: str = "qwen", *, tied: bool = True) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel.from_config(make_text_config(family, vocab_size=50, tied=tied)).eval()


@pytest.mark.parametrize(
    ("family", "architecture"),
    [("qwen", "Qwen3ForCausalLM"), ("llama", "LlamaForCausalLM"), ("gemma", "Gemma3ForCausalLM")],
)
def test_configuration_names_the_class_a_serving_engine_looks_for(family: str, architecture: str) -> None:
    assert make_language_model(family).config.architectures == [architecture]


def test_pretrained_weights_are_loaded(tmp_path: Path) -> None:
    original = AutoModelForCausalLM.from_config(make_text_config("qwen", vocab_size=50))
    original.save_pretrained(tmp_path)
    loaded = LanguageModel.from_pretrained(str(tmp_path)).eval()
    torch.testing.assert_close(loaded(input_ids=IDS).logits, original.eval()(IDS).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_room_for_new_tokens_starts_at_the_mean(tied: bool) -> None:
    language_model = make_language_model(tied=tied)
    before = language_model.embeddings.weight.detach().clone()
    language_model.make_room_for(53)
    after = language_model.embeddings.weight
    assert after.shape[0] == language_model.config.vocab_size == 53
    torch.testing.assert_close(after[:50], before)
    torch.testing.assert_close(after[50:], before.mean(dim=0).expand(3, -1))
    output = language_model.model.get_output_embeddings().weight
    assert (output is after) == tied
    torch.testing.assert_close(output[50:], output[:50].mean(dim=0).expand(3, -1))


def test_spare_rows_are_left_alone() -> None:
    language_model = make_language_model()
    before = language_model.embeddings.weight
    language_model.make_room_for(40)
    assert language_model.embeddings.weight is before


@pytest.mark.parametrize("family", LANGUAGE_FAMILIES)
def test_lora_trains_adapters_only_and_merges_exactly(family: str) -> None:
    language_model = make_language_model(family)
    plain = language_model(input_ids=IDS).logits
    language_model.add_lora(rank=2, alpha=4)
    torch.testing.assert_close(language_model(input_ids=IDS).logits, plain)
    trained = [name for name, parameter in language_model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in language_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    adapted = language_model(input_ids=IDS).logits
    assert (adapted - plain).abs().max() > 0.1
    language_model.merge_lora()
    assert not language_model.has_lora
    assert not any("lora" in name for name, _ in language_model.named_parameters())
    torch.testing.assert_close(language_model(input_ids=IDS).logits, adapted, rtol=1e-4, atol=1e-4)


def test_lora_that_cannot_be_is_an_error() -> None:
    language_model = make_language_model()
    with pytest.raises(ConfigError, match=r"\['query_key_value'\] are not in Qwen3ForCausalLM.*q_proj"):
        language_model.add_lora(rank=2, alpha=4, target_modules=["q_proj", "query_key_value"])
    with pytest.raises(ConfigError, match="no LoRA adapters to merge"):
        language_model.merge_lora()
    language_model.add_lora(rank=2, alpha=4)
    with pytest.raises(ConfigError, match="already"):
        language_model.add_lora(rank=2, alpha=4)


FUSION = LanguageFusion(image_token_id=9)


def test_vision_tokens_replace_placeholders_in_order() -> None:
    input_ids = torch.tensor([[1, 9, 9, 2, 0, 0], [9, 9, 3, 9, 9, 4], [5, 6, 7, 8, 1, 2]])
    embeddings = torch.zeros(3, 6, 1)
    vision_tokens = torch.arange(1.0, 7.0).view(3, 2, 1)
    fused = FUSION(input_ids, embeddings, vision_tokens)[..., 0]
    assert fused.tolist() == [[0, 1, 2, 0, 0, 0], [3, 4, 0, 5, 6, 0], [0] * 6]


def test_wrong_number_of_placeholders_is_an_error_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="3 placeholders, but 1 panoramas have 2 vision tokens"):
        FUSION(torch.tensor([[9, 9, 9]]), torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))


def test_placeholders_must_match_row_by_row() -> None:
    input_ids = torch.tensor([[9, 9, 9], [9, 1, 1]])
    with pytest.raises(ValueError, match="row 0 has 3 placeholders, no multiple of the 2"):
        FUSION(input_ids, torch.zeros(2, 3, 4), torch.zeros(2, 2, 4))
