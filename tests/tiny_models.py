"""Tiny towers, tokenizers and panoramas with random content, made without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SiglipVisionConfig,
)

from cora.data.samples import Conversation, PanoramaSample, collate
from cora.model.configuration import PanoramaVLMConfig
from cora.model.vlm import PanoramaVLM
from cora.processors.processor import PanoramaProcessor
from cora.processors.text import add_vision_token

TEXTS = (
    "What colour is the cube ahead of you?",
    "a red cone is to the left; the blue sphere is behind",
    "Describe the scene in one sentence.",
    "user assistant system model",
)
SPECIAL_TOKENS = {
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
    "none": ["<s>", "</s>"],
}
TOKENIZER_ROLES = {
    "qwen": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    "none": {"bos_token": "<s>", "eos_token": "</s>"},
}
# Every registered resampler, small.
TINY_RESAMPLERS: dict[str, dict[str, Any]] = {
    "identity": {},
    "mlp": {"hidden_dim": 16, "depth": 3},
    "bimamba": {"hidden_dim": 16, "num_layers": 2, "d_state": 4},
    "perceiver": {"num_latents": 5, "heads": 2, "dim_head": 8, "depth": 2},
    "qformer": {"num_query_tokens": 5, "num_hidden_layers": 2, "num_attention_heads": 2},
    "spatial_pool": {"pool_size": 2},
    "masked_drop": {},
    "c_abstractor": {"hidden_dim": 16, "depth": 1, "kernel_size": 3},
}
VISION_TYPES = ("siglip", "clip", "dinov2", "dinov2_with_registers")
LANGUAGE_FAMILIES = ("qwen", "llama", "gemma")


def make_tokenizer(family: str, *, thinking: bool = False) -> Any:
    """Return a byte-level BPE tokenizer with the special tokens of a family."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=SPECIAL_TOKENS[family],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **TOKENIZER_ROLES[family])
    if thinking:
        tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def make_vision_config(kind: str, *, image_size: int = 32, patch_size: int = 8) -> PretrainedConfig:
    """Return the configuration of a tower of two blocks, 32 wide."""
    options: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
        "initializer_range": 0.2,
    }
    if kind == "siglip":
        return SiglipVisionConfig(intermediate_size=64, **options)
    if kind == "clip":
        return CLIPVisionConfig(intermediate_size=64, **options)
    if kind == "dinov2":
        return Dinov2Config(mlp_ratio=2, **options)
    return Dinov2WithRegistersConfig(mlp_ratio=2, num_register_tokens=3, **options)


def make_text_config(family: str, *, vocab_size: int, tied: bool = True) -> PretrainedConfig:
    """Return the configuration of a language model of two layers; head_dim 32 is the least that vLLM has on a CPU."""
    options: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": tied,
        # Large weights, so that answers depend on the panorama and no two logits come near each other.
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if family == "qwen":
        return Qwen3Config(**options)
    if family == "llama":
        return LlamaConfig(**options)
    # Gemma normalises what its blocks add; small embeddings keep them from being drowned by the token itself.
    options["initializer_range"] = 0.02
    return Gemma3TextConfig(sliding_window=1024, query_pre_attn_scalar=32, **options)


def make_model(
    family: str = "qwen",
    *,
    vision: str = "siglip",
    tied: bool = True,
    resampler: dict[str, Any] | None = None,
    projector: dict[str, Any] | None = None,
    image_processing: dict[str, Any] | None = None,
    seed: int = 0,
) -> tuple[PanoramaVLM, PanoramaProcessor]:
    """Return a model with random weights, in evaluation mode, and its processor."""
    tokenizer = make_tokenizer(family)
    image_token_id = add_vision_token(tokenizer)
    torch.manual_seed(seed)
    config = PanoramaVLMConfig(
        vision_config=make_vision_config(vision),
        text_config=make_text_config(family, vocab_size=len(tokenizer), tied=tied),
        image_processing={"crop_strategy": "e2p", "image_size": [32, 32], **(image_processing or {})},
        resampler=resampler or {"type": "mlp", "hidden_dim": 32, "depth": 2},
        latent_dim=24,
        projector=projector or {},
        image_token_id=image_token_id,
    )
    model = PanoramaVLM(config).eval()
    # What is seen should weigh as much as what is asked.
    torch.nn.init.normal_(model.projector.linear.weight, std=1.0)
    for name, weight in model.named_parameters():
        if name.endswith("q_norm.weight"):
            # Normalised queries and keys attend to everything alike, and then every panorama gets the same answer.
            torch.nn.init.constant_(weight, 8.0)
    return model, model.build_processor(tokenizer, system_message="Look around.")


def make_panorama(seed: int, *, height: int = 64) -> Image.Image:
    """Return a panorama of coarse noise that looks like no other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((2 * height, height))


def make_batch(processor: Any, number: int = 2) -> dict[str, torch.Tensor]:
    """Return a training batch of a question and its answer about each of some panoramas."""
    samples = []
    for seed in range(number):
        panorama = make_panorama(seed)
        views = processor.image_processor(panorama)["pixel_values"][0]
        conversation = Conversation(*processor.encode_training("What is ahead?", "a red cone"))
        samples.append(PanoramaSample(panorama, views, False, (conversation,)))  # type: ignore[arg-type]
    return collate(
        samples,
        image_token_id=processor.image_token_id,
        pad_token_id=int(processor.tokenizer.pad_token_id),
    )


def write_towers(folder: Path, *, vision: str = "siglip", family: str = "qwen") -> tuple[Path, Path]:
    """Save a vision tower and a language model with random weights as Hugging Face directories; return where."""
    torch.manual_seed(0)
    vision_folder, language_folder = folder / vision, folder / family
    AutoModel.from_config(make_vision_config(vision)).save_pretrained(vision_folder)
    tokenizer = make_tokenizer(family)
    AutoModelForCausalLM.from_config(make_text_config(family, vocab_size=len(tokenizer))).save_pretrained(
        language_folder
    )
    tokenizer.save_pretrained(language_folder)
    return vision_folder, language_folder
