"""PanoramaProcessor: panoramas and questions in, model input out; the same in training, Transformers and vLLM.

Shapes: B texts, P panoramas, V views, T vision tokens, L sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from cora._auto_classes import register_loaded_classes
from cora.errors import ConfigError
from cora.processors.images import PanoramaImageProcessor
from cora.processors.loading import PanoramaSource
from cora.processors.text import IGNORE_INDEX, FamilyName, UniversalTextFormatter, add_vision_token

__all__ = ["PanoramaProcessor"]


class PanoramaProcessor(ProcessorMixin):  # type: ignore[misc]  # transformers is untyped here
    """Cuts panoramas into views and tokenises texts, each placeholder as many times as a panorama has vision tokens.

    Args:
        tokenizer: Tokenizer of the language model; the placeholder is added when it lacks it.
        image_processing: Options of the `PanoramaImageProcessor`.
        num_vision_tokens: T, from `PanoramaVLMConfig.num_vision_tokens`.
        system_message: System text of conversations that bring none.
        family: Chat family, or ``auto``.
        chat_template: Template of a saved processor; our own for the family when None.
    """

    # The base class finds the parts to save and load by the names of these arguments, which it passes by position.
    def __init__(
        self,
        tokenizer: Any,
        image_processing: Mapping[str, Any] | None = None,
        num_vision_tokens: int | None = None,
        system_message: str | None = None,
        family: FamilyName = "auto",
        chat_template: str | None = None,
    ) -> None:
        if num_vision_tokens is None or num_vision_tokens < 1:
            raise ConfigError(f"num_vision_tokens of a processor must be at least 1, got {num_vision_tokens}")
        self.image_token_id = add_vision_token(tokenizer)
        self.image_processor = PanoramaImageProcessor.from_dict(image_processing or {})
        self.image_processing = self.image_processor.to_dict()
        self.text_formatter = UniversalTextFormatter(
            tokenizer, system_message=system_message, family=family, chat_template=chat_template
        )
        self.num_vision_tokens = int(num_vision_tokens)
        self.system_message = system_message
        self.family = self.text_formatter.family
        # Generation continues at the right end of a prompt, so padding goes to the left.
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.chat_template = self.text_formatter.chat_template
        super().__init__(tokenizer, chat_template=self.text_formatter.chat_template)

    def to_dict(self) -> dict[str, Any]:
        """Return what `processor_config.json` holds."""
        return {
            "image_processing": self.image_processing,
            "num_vision_tokens": self.num_vision_tokens,
            "system_message": self.system_message,
            "family": self.family,
            "processor_class": type(self).__name__,
        }

    @property
    def model_input_names(self) -> list[str]:
        """Names of what `__call__` may return."""
        return ["input_ids", "attention_mask", "pixel_values"]

    def __call__(
        self,
        images: PanoramaSource | Sequence[PanoramaSource] | None = None,
        text: str | Sequence[str] | None = None,
        return_tensors: Literal["pt"] | None = None,
        padding: bool | Literal["longest"] = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Return ``pixel_values`` float[P, V, 3, h, w] of panoramas and ``input_ids``, ``attention_mask`` of texts.

        Args:
            images: A panorama or a list of them.
            text: A finished prompt or a list of them; each placeholder becomes T of them. Prompts are never cut.
            return_tensors: ``"pt"`` makes ids tensors int64[B, L]; None leaves lists.
            padding: Whether texts are padded, on the left, to the longest.
            **kwargs: Options of the tokenizer.

        Raises:
            ConfigError: Something would cut the prompt, or there is nothing to process.
            ImageError: A panorama cannot be used.
        """
        if images is None and text is None:
            raise ConfigError("the processor needs images, text or both")
        data: dict[str, Any] = {}
        if text is not None:
            data.update(self._encode_text([text] if isinstance(text, str) else list(text), padding, **kwargs))
            if return_tensors == "pt":
                data = {name: self._as_tensor(rows) for name, rows in data.items()}
        if images is not None:
            data.update(self.image_processor(images, return_tensors="pt"))
        return BatchFeature(data)

    def _encode_text(self, texts: list[str], padding: bool | str, **kwargs: Any) -> dict[str, list[list[int]]]:
        if kwargs.pop("truncation", False) or kwargs.pop("max_length", None) is not None:
            raise ConfigError("a prompt is never cut: truncation and max_length are not available")
        if padding not in (True, False, "longest"):
            raise ConfigError(f"padding is True, False or 'longest', got {padding!r}")
        # Our prompts carry their own BOS token.
        options = {"add_special_tokens": False, **kwargs, "return_attention_mask": False}
        rows = [self.expand(row) for row in self.tokenizer(texts, **options)["input_ids"]]
        masks = [[1] * len(row) for row in rows]
        if padding:
            longest, pad_id = max(map(len, rows)), self.tokenizer.pad_token_id
            masks = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
            rows = [[pad_id] * (longest - len(row)) + row for row in rows]
        return {"input_ids": rows, "attention_mask": masks}

    @staticmethod
    def _as_tensor(rows: list[list[int]]) -> Tensor:
        if len({len(row) for row in rows}) > 1:
            raise ConfigError("texts of different lengths make no tensor; pass padding=True")
        return torch.tensor(rows)

    def expand(self, token_ids: Sequence[int]) -> list[int]:
        """Return token ids with every placeholder repeated T times."""
        expanded: list[int] = []
        for token in token_ids:
            expanded += [token] * self.num_vision_tokens if token == self.image_token_id else [token]
        return expanded

    def encode_training(self, query: str, answer: str) -> tuple[list[int], list[int]]:
        """Return the formatter's token ids and labels with the placeholder expanded; it is never predicted."""
        token_ids, labels = self.text_formatter.encode_training(query, answer)
        position = token_ids.index(self.image_token_id)
        labels[position : position + 1] = [IGNORE_INDEX] * self.num_vision_tokens
        return self.expand(token_ids), labels


register_loaded_classes()
