"""A small Qwen3 language model, pretrained on the questions and answers of made-up worlds without any picture.

It learns how questions are asked and how answers sound, and is right about as often as a good guess.

Shapes: B conversations, L sequence.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from rich.progress import track
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from cora.data.synthetic import questions_about, random_scene
from cora.processors.text import IGNORE_INDEX, UniversalTextFormatter, add_vision_token
from cora.training.schedule import linear_warmup_decay
from cora.training.towers.tokenizer import END_OF_TEXT, train_tokenizer

__all__ = ["LanguageTowerOptions", "make_language_tower"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageTowerOptions:
    """Size and schedule of the language model."""

    width: int = 128
    num_layers: int = 3
    num_heads: int = 4
    num_scenes: int = 300
    steps: int = 80
    batch_size: int = 32
    lr: float = 3e-3


def make_language_tower(
    folder: Path, *, system_message: str | None, options: LanguageTowerOptions | None = None, first_seed: int
) -> float:
    """Train a tokenizer and pretrain a language model on texts about scenes; save both as a Hugging Face directory.

    Args:
        folder: Where they are saved.
        system_message: System text of the conversations, the same as in training.
        options: Size and schedule.
        first_seed: Seed of the first scene; also of weights and batches. Scenes should not be those of a split.

    Returns:
        Mean loss per predicted token over the last tenth of the steps, each batch before it is learnt from.
    """
    options = LanguageTowerOptions() if options is None else options
    scenes = (random_scene(first_seed + number) for number in range(options.num_scenes))
    pairs = [(question.text, question.answer) for scene in scenes for question in questions_about(scene)]
    # The words of the turns belong to every conversation: as single tokens they make all of them shorter.
    turns = ([f"system\n{system_message or ''}", f"user\n{query}", f"assistant\n{answer}"] for query, answer in pairs)
    tokenizer = train_tokenizer(chain.from_iterable(turns))
    add_vision_token(tokenizer)
    formatter = UniversalTextFormatter(tokenizer, system_message=system_message)
    encoded = [formatter.encode_training(query, answer, has_panorama=False) for query, answer in pairs]
    with torch.random.fork_rng():
        torch.manual_seed(first_seed)
        model = _new_model(len(tokenizer), options, tokenizer.convert_tokens_to_ids(END_OF_TEXT))
        loss = _fit(model, encoded, options)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    logger.info("language tower: loss %.3f per token without pictures, saved to %s", loss, folder)
    return loss


def _new_model(vocab_size: int, options: LanguageTowerOptions, pad_token_id: int) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=options.width,
            intermediate_size=3 * options.width,
            num_hidden_layers=options.num_layers,
            num_attention_heads=options.num_heads,
            num_key_value_heads=options.num_heads // 2,
            head_dim=options.width // options.num_heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            # Transformers' default of 0.02 suits widths of thousands; at this width it would start on a plateau.
            initializer_range=options.width**-0.5,
            pad_token_id=pad_token_id,
        )
    )


def _fit(model: Qwen3ForCausalLM, encoded: list[tuple[list[int], list[int]]], options: LanguageTowerOptions) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = linear_warmup_decay(optimizer, total_steps=options.steps, warmup_ratio=0.1)
    losses: list[float] = []
    for _ in track(range(options.steps), description="language tower"):
        rows = [encoded[index] for index in torch.randint(len(encoded), (options.batch_size,)).tolist()]
        length = max(len(ids) for ids, _ in rows)
        input_ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows])
        labels = torch.tensor([row + [IGNORE_INDEX] * (length - len(row)) for _, row in rows])
        # Padding stands on the right, where the causal mask hides it from what is predicted.
        loss = model(input_ids=input_ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    last = losses[-max(options.steps // 10, 1) :]
    return sum(last) / len(last)
