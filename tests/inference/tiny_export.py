"""Makes a tiny export with random weights: enough to run every step, too little to know anything."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from cora.model.vlm import PanoramaVLM

CONTEXT = 192
TEXTS = ("What is ahead?", "Describe the scene.", "system user assistant think", "a red tower and a blue house")


def write_tiny_export(directory: Path) -> Path:
    """Write an export of about 50,000 random weights to `directory` and return it."""
    torch.manual_seed(0)
    vision, language = directory.parent / "vision", directory.parent / "language"
    SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
    ).save_pretrained(vision)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(language)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,  # the smallest that vLLM has attention for on a CPU
        max_position_embeddings=CONTEXT,
        # Large weights, so that answers differ between panoramas and no two logits come near each other.
        initializer_range=0.4,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(language)
    model, tokenizer = PanoramaVLM.from_components(
        vision_name=str(vision),
        language_model_name=str(language),
        image_processing={"crop_strategy": "e2p", "image_size": (32, 32), "fov_deg": 90.0, "overlap_ratio": 0.5},
        resampler={"type": "mlp"},
        latent_dim=16,
    )
    processor = model.build_processor(tokenizer)
    model.export(directory, processor)
    return directory


def _tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=specials[1:2]
    )
