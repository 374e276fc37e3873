"""Turns questions into token ids that fit the model's context, the same ones for every back end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cora.inference.protocol import GenerationRequest, GenerationResult, failed

if TYPE_CHECKING:
    from cora.processors.processor import PanoramaProcessor

__all__ = ["Prompt", "decode_answer", "encode_requests", "end_token_ids"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request that can be generated.

    Attributes:
        index: Position of the request.
        token_ids: The prompt with every placeholder expanded.
        max_new_tokens: The limit of the settings, or less where the context ends before it.
    """

    index: int
    token_ids: tuple[int, ...]
    max_new_tokens: int


def encode_requests(
    processor: PanoramaProcessor, requests: Sequence[GenerationRequest], *, max_new_tokens: int, context: int | None
) -> tuple[list[Prompt], dict[int, GenerationResult]]:
    """Return the prompts that fit, and a failure by position for each request that does not.

    Args:
        processor: Formats and tokenises.
        requests: What is asked.
        max_new_tokens: Most tokens of an answer.
        context: Most tokens of prompt and answer together; None is unlimited.
    """
    prompts: list[Prompt] = []
    failures: dict[int, GenerationResult] = {}
    texts = [processor.text_formatter.prompt(request.query) for request in requests]
    for index, row in enumerate(processor(text=texts)["input_ids"]):
        token_ids = tuple(row)
        room = max_new_tokens if context is None else context - len(token_ids)
        if room < 1:
            failures[index] = failed(
                f"the prompt is {len(token_ids)} tokens long ({processor.num_vision_tokens} of them for the panorama); "
                f"the context of {context} tokens leaves no room for an answer"
            )
        else:
            prompts.append(Prompt(index, token_ids, min(room, max_new_tokens)))
    return prompts, failures


def end_token_ids(generation_config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end an answer: those of the model's generation configuration and of the tokenizer."""
    configured = getattr(generation_config, "eos_token_id", None)
    ids = set(configured if isinstance(configured, (list, tuple)) else [configured])
    ids.add(tokenizer.eos_token_id)
    return tuple(sorted(int(token) for token in ids if token is not None))


def decode_answer(tokenizer: Any, token_ids: Sequence[int], end_ids: Sequence[int]) -> GenerationResult:
    """Return the answer that ends at the first end token, or at the last token where there is none."""
    ends = [position for position, token in enumerate(token_ids) if token in end_ids]
    kept = tuple(token_ids[: ends[0] + 1] if ends else token_ids)
    text = tokenizer.decode(list(kept), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return GenerationResult(text, kept, "stop" if ends else "length")
