"""A model that is no export of CORA, with LoRA merged into it, is served under the same rules."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from served import Server, about, data_uri, serving
from tiny_models import make_panorama, make_text_config, make_tokenizer

from cora.errors import BackendUnavailable
from cora.serving.engine import _why_not_loaded

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
NEW_TOKENS = 8
# Transformers and vLLM count the prompt and cut the picture by themselves; only the wording is ours.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_processor() -> Any:
    """Return the processor of an Idefics3 that sees 32 x 32 pixels as four tokens; of that size it needs no more."""
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = make_tokenizer("qwen")
    added = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokenizer.add_tokens(added, special_tokens=True)
    size = {"longest_edge": 32}
    images = Idefics3ImageProcessorPil(size=size, max_image_size=size, do_image_splitting=False)
    return Idefics3Processor(image_processor=images, tokenizer=tokenizer, image_seq_len=4, chat_template=TEMPLATE)


def make_merged_model(tokenizer: Any) -> Any:
    """Return an Idefics3 with random weights, into which a LoRA of random weights is merged."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Idefics3Config(
        vision_config={**vision, "image_size": 32, "patch_size": 8, "initializer_range": 0.2},
        text_config=make_text_config("llama", vocab_size=len(tokenizer), tied=False).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Idefics3ForConditionalGeneration(config).eval()
    before = model.state_dict()["model.text_model.layers.0.self_attn.q_proj.weight"].clone()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=r".*text_model.*(q_proj|v_proj)"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    merged = adapted.merge_and_unload()
    assert not torch.equal(merged.state_dict()["model.text_model.layers.0.self_attn.q_proj.weight"], before)
    merged.generation_config.eos_token_id = tokenizer.eos_token_id
    return merged


def greedy_ids(model: Any, processor: Any, seed: int) -> list[int]:
    """Return what Transformers answers about a panorama."""
    content = [{"type": "image"}, {"type": "text", "text": "What is ahead?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[make_panorama(seed)], text=[prompt], return_tensors="pt")
    sequences = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return sequences[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def expected() -> dict[int, list[int]]:
    """What Transformers answers, filled in by `merged`."""
    return {}


@pytest.fixture(scope="module")
def merged(expected: dict[int, list[int]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the merged model."""
    folder = tmp_path_factory.mktemp("merged")
    checkpoint = folder / "baseline"
    with warnings.catch_warnings(action="ignore"):  # of Transformers about its own defaults
        processor = make_processor()
        model = make_merged_model(processor.tokenizer)
        expected.update((seed, greedy_ids(model, processor, seed)) for seed in (1, 2))
        model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
    with serving(checkpoint, folder, "--set", "engine.max_num_seqs=4") as running:
        yield running


@pytest.mark.vllm
@pytest.mark.slow
@needs_vllm
def test_a_merged_model_answers_as_in_transformers(merged: Server, expected: dict[int, list[int]]) -> None:
    options = {"max_tokens": NEW_TOKENS, "temperature": 0, "return_token_ids": True}
    found = {seed: merged.ask(about(seed), **options).json()["choices"][0]["token_ids"] for seed in (1, 2)}
    assert found == expected
    assert found[1] != found[2]


@pytest.mark.vllm
@needs_vllm
def test_the_rules_hold_for_other_models(merged: Server) -> None:
    flat = merged.ask(about(data_uri(make_panorama(0).resize((64, 64)))))
    assert (flat.status_code, flat.json()["error"]["param"]) == (400, "image_url")
    assert "no panorama" in flat.json()["error"]["message"]
    assert merged.ask([*about(1), *about(2)]).status_code == 400
    assert merged.ask(about(1), mm_processor_kwargs={"size": {"longest_edge": 8192}}).status_code == 400
    assert merged.ask(about("https://example.org/a.jpg")).status_code == 403
    with merged.client(key=None) as client:
        assert client.get("/v1/models").status_code == 401
    with merged.client() as client:
        views = client.get("/cora/views").json()
        assert (views["model"], views["vision_tokens"], views["views"]) == ("tiny", None, [])
        assert client.post("/tokenize", json={"prompt": "a"}).status_code == 404


def test_a_model_that_vllm_cannot_load_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    served = SimpleNamespace(directory=Path("model"))
    error = ValueError("Model architectures ['LlavaForConditionalGeneration'] failed to be inspected.")
    monkeypatch.setattr("cora.serving.engine.find_spec", lambda name: None)
    found = _why_not_loaded(served, error)
    assert isinstance(found, BackendUnavailable)
    assert "model: vLLM cannot load LlavaForConditionalGeneration here" in str(found)
    assert "pip install torchvision" in str(found)
    monkeypatch.setattr("cora.serving.engine.find_spec", lambda name: object())
    assert "torchvision" not in str(_why_not_loaded(served, error))
    assert _why_not_loaded(served, ValueError("something else")) is None
