"""The text half of the processor: one wording of a question for training, evaluation and serving."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any, Literal

from cora.errors import ConfigError, did_you_mean
from cora.processors.chat_templates import (
    FAMILIES,
    VISION_TOKEN,
    build_chat_template,
    detect_family,
    harmless_spellings,
)

__all__ = ["IGNORE_INDEX", "VISION_TOKEN", "UniversalTextFormatter", "add_vision_token"]

FamilyName = Literal["auto", "qwen", "llama", "gemma"]
# The label of a token that is not predicted.
IGNORE_INDEX = -100
# Stands for a question that is not known yet; a private character, which no template contains.
_QUESTION = "\ue000"

logger = logging.getLogger(__name__)


def add_vision_token(tokenizer: Any) -> int:
    """Return the id of the placeholder in the tokenizer, adding it when it is new."""
    tokenizer.add_tokens([VISION_TOKEN], special_tokens=True)
    return int(tokenizer.convert_tokens_to_ids(VISION_TOKEN))


@lru_cache(maxsize=64)
def _log_family(tokenizer_name: str, family: str) -> None:
    logger.info("tokenizer %s: chat family %s", tokenizer_name or "(in memory)", family)


class UniversalTextFormatter:
    """Words questions and answers as the language model's family expects.

    Special tokens in questions, answers and the system message are made plain text, so nobody can close a turn or
    place a panorama by typing. Texts are stripped of white space at both ends.

    Args:
        tokenizer: A tokenizer of transformers that knows the placeholder (see `add_vision_token`).
        system_message: System text of every conversation that brings none, or None.
        family: Which family's turn markers to use; ``auto`` looks for them in the vocabulary.
        chat_template: Template to render with, of a saved processor; a new one for the family when None.

    Raises:
        ConfigError: The family is unknown, cannot be told, or its markers or the placeholder are not in the
            vocabulary.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        system_message: str | None = None,
        family: FamilyName = "auto",
        chat_template: str | None = None,
    ) -> None:
        if family != "auto" and family not in FAMILIES:
            raise ConfigError(
                f"unknown chat family '{family}'{did_you_mean(family, FAMILIES)}; known: auto, {', '.join(FAMILIES)}"
            )
        self.tokenizer = tokenizer
        self.system_message = system_message
        self.family: str = detect_family(tokenizer) if family == "auto" else family
        vocabulary = tokenizer.get_vocab()
        for token in (*FAMILIES[self.family].markers, VISION_TOKEN):
            if token not in vocabulary:
                raise ConfigError(
                    f"tokenizer '{tokenizer.name_or_path}' has no token {token}; chat family '{self.family}' needs it"
                )
        _log_family(tokenizer.name_or_path, self.family)
        if chat_template is None:
            chat_template = build_chat_template(tokenizer, self.family, system_message)
        self.chat_template: str = chat_template
        self._is_ours = chat_template == build_chat_template(tokenizer, self.family, system_message)
        self._rendered: dict[bool, tuple[str, str]] = {}
        self._harmless = harmless_spellings(tokenizer, FAMILIES[self.family])
        self._end_text = FAMILIES[self.family].turn_end
        self.end_of_turn_id = int(tokenizer.convert_tokens_to_ids(self._end_text))

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer: the end of a turn and the tokenizer's end of text."""
        ids = {self.end_of_turn_id}
        if self.tokenizer.eos_token_id is not None:
            ids.add(int(self.tokenizer.eos_token_id))
        return tuple(sorted(ids))

    def plain(self, text: str) -> str:
        """Return a text in which every special token is spelled so that it stays text."""
        for token, spelling in self._harmless:
            text = text.replace(token, spelling)
        return text.strip()

    def _render(self, query: str, *, has_panorama: bool) -> str:
        parts = [{"type": "image"}] if has_panorama else []
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": query}]}]
        rendered: str = self.tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, add_generation_prompt=True, tokenize=False
        )
        return rendered

    def prompt(self, query: str, *, has_panorama: bool = True) -> str:
        """Return the text up to where the answer starts, with one placeholder before the question."""
        if not self._is_ours:
            return self._render(query, has_panorama=has_panorama)
        start, end = self._around(has_panorama)
        return start + self.plain(query) + end

    def _around(self, has_panorama: bool) -> tuple[str, str]:
        """Return what our own template puts around a question: rendering it for each takes longer than tokenising."""
        if has_panorama not in self._rendered:
            start, _, end = self._render(_QUESTION, has_panorama=has_panorama).rpartition(_QUESTION)
            self._rendered[has_panorama] = (start, end)
        return self._rendered[has_panorama]

    def conversation(self, query: str, answer: str, *, has_panorama: bool = True) -> str:
        """Return the prompt with its answer and the end of the assistant's turn."""
        return self.prompt(query, has_panorama=has_panorama) + self.plain(answer) + self._end_text

    def prompt_ids(self, query: str, *, has_panorama: bool = True) -> list[int]:
        """Return the token ids of `prompt`, with one placeholder."""
        ids: list[int] = self.tokenizer(
            self.prompt(query, has_panorama=has_panorama), add_special_tokens=False
        ).input_ids
        return ids

    def encode_training(self, query: str, answer: str, *, has_panorama: bool = True) -> tuple[list[int], list[int]]:
        """Return token ids (with one placeholder) and labels: the answer and the end of the turn are predicted.

        Prompt and answer are tokenised apart, as they are in generation, where the answer comes after a finished
        prompt.
        """
        prompt_ids = self.prompt_ids(query, has_panorama=has_panorama)
        answer_ids = self.answer_ids(answer)
        return prompt_ids + answer_ids, [IGNORE_INDEX] * len(prompt_ids) + answer_ids

    def answer_ids(self, answer: str) -> list[int]:
        """Return the token ids of an answer with the end of the turn."""
        ids: list[int] = self.tokenizer(self.plain(answer), add_special_tokens=False).input_ids
        return [*ids, self.end_of_turn_id]
