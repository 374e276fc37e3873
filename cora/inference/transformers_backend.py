"""Generation with Transformers: batched, left padded, a panorama loaded, cut and encoded once for all its questions.

Shapes: B prompts of a batch, L padded length, T vision tokens, D width of the language model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig

from cora.errors import BackendUnavailable, CoraError
from cora.inference.prompts import Prompt, decode_answer, encode_requests, end_token_ids
from cora.inference.protocol import (
    GenerationRequest,
    GenerationResult,
    GenerationSettings,
    failed,
)
from cora.inference.recent import RecentPanoramas
from cora.inference.streams import ImageRun, Indexed, generate_all, image_runs, prepared

if TYPE_CHECKING:
    from cora.model.vlm import PanoramaVLM
    from cora.processors.loading import PanoramaSource
    from cora.processors.processor import PanoramaProcessor

__all__ = ["TransformersBackend", "resolve_device"]

logger = logging.getLogger(__name__)

# (position of the request, its prompt, the panorama's tokens float[T, D])
_Ready = tuple[int, Prompt, Tensor]
_MOST_PROMPTS = 32
_CACHE_BYTES = 2 * 2**30
# Question and answer, roughly.
_TEXT_TOKENS = 256
_KNOWN_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class _Look:
    """One of: a panorama's tokens float[T, D], its views float[V, 3, h, w], its pixels uint8[H, W, 3], its fault."""

    vision_tokens: Tensor | None = None
    views: Tensor | None = None
    panorama: Tensor | None = None
    error: CoraError | None = None


def resolve_device(device: str) -> torch.device:
    """Return the device to run on; ``auto`` is CUDA where there is one, and the choice is logged.

    Raises:
        BackendUnavailable: The device that was asked for is not there.
    """
    if device == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
        logger.info("device %s: %s", chosen, "CUDA is available" if chosen == "cuda" else "CUDA is not available")
        return torch.device(chosen)
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise BackendUnavailable(f"unknown device '{device}'; known: auto, cpu, cuda, cuda:<number>") from None
    if resolved.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (resolved.index or 0) >= count:
            build = (
                "this torch is built for the CPU only" if torch.version.cuda is None else f"{count} CUDA devices found"
            )
            raise BackendUnavailable(f"device {device} is not available: {build}")
    elif resolved.type != "cpu":
        raise BackendUnavailable(f"device {device} is not supported; known: auto, cpu, cuda, cuda:<number>")
    return resolved


class TransformersBackend:
    """Runs a `PanoramaVLM` through ``generate``.

    Args:
        model: The model, in evaluation mode, on the device to use.
        processor: Its processor.
        batch_size: Prompts that are generated together; None is as many as 2 GiB of keys and values hold, at most 32.
    """

    def __init__(self, model: PanoramaVLM, processor: PanoramaProcessor, *, batch_size: int | None = None) -> None:
        self.model = model.train(False)
        self.processor = processor
        self.batch_size = batch_size or _fitting_batch(model, processor)
        self._is_on_cpu = model.device.type == "cpu"
        self._known: RecentPanoramas[Tensor] = RecentPanoramas(_KNOWN_BYTES, lambda tokens: tokens.nbytes)
        self.end_ids = end_token_ids(model.generation_config, processor.tokenizer)
        self.context: int | None = getattr(model.config.text_config, "max_position_embeddings", None)
        # The checkpoint's sampling defaults would fill in whatever the settings leave open.
        model.generation_config = GenerationConfig(
            eos_token_id=list(self.end_ids) or None, pad_token_id=processor.tokenizer.pad_token_id
        )

    @classmethod
    def load(
        cls, directory: Path, processor: PanoramaProcessor, *, device: str = "auto", batch_size: int | None = None
    ) -> TransformersBackend:
        """Return a back end for an export: float32 on a CPU, bfloat16 on CUDA."""
        from cora.model.vlm import PanoramaVLM

        target = resolve_device(device)
        dtype = torch.float32 if target.type == "cpu" else torch.bfloat16
        model = PanoramaVLM.from_pretrained(directory, dtype=dtype)
        torch.nn.Module.to(model, target)
        return cls(model, processor, batch_size=batch_size)

    @property
    def chunk_size(self) -> int:
        """Number of requests that are worth giving it at once."""
        return self.batch_size

    @property
    def name(self) -> str:
        """Back end, device and precision."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return f"transformers ({self.model.device.type}, {dtype})"

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        """Return one result per request, in order."""
        return generate_all(self, requests, settings)

    @torch.inference_mode()
    def stream(self, requests: Iterable[GenerationRequest], settings: GenerationSettings) -> Iterator[list[Indexed]]:
        """Yield (position of the request, result) batch by batch; batches are full, whatever panoramas they are about.

        On a GPU the next panoramas are decoded and cut while a batch is generated; a CPU does one after the other.
        """
        batch: list[_Ready] = []
        with prepared(self._look, image_runs(requests), is_beside=not self._is_on_cpu) as looks:
            for run, look in looks:
                prompts, failures = encode_requests(
                    self.processor, run.requests, max_new_tokens=settings.max_new_tokens, context=self.context
                )
                if look.error is not None:
                    failures.update((prompt.index, failed(look.error)) for prompt in prompts)
                    prompts = []
                if failures:
                    yield [(run.start + index, failure) for index, failure in failures.items()]
                vision_tokens = self._embed(run.image, look) if prompts else None
                for prompt in prompts:
                    assert vision_tokens is not None
                    ready = (run.start + prompt.index, prompt, vision_tokens)
                    # Alone, because one limit holds for a whole batch, or one stream of random numbers.
                    if settings.temperature > 0 or prompt.max_new_tokens < settings.max_new_tokens:
                        yield self._finish([ready], settings)
                        continue
                    batch.append(ready)
                    if len(batch) == self.batch_size:
                        yield self._finish(batch, settings)
                        batch = []
            if batch:
                yield self._finish(batch, settings)

    def close(self) -> None:
        """Drop the model."""
        del self.model
        self._known.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _finish(self, batch: Sequence[_Ready], settings: GenerationSettings) -> list[Indexed]:
        answers = self._generate_batch([(prompt, tokens) for _, prompt, tokens in batch], settings)
        decoded = (decode_answer(self.processor.tokenizer, answer, self.end_ids) for answer in answers)
        return [(position, answer) for (position, _, _), answer in zip(batch, decoded, strict=True)]

    def _look(self, run: ImageRun) -> _Look:
        """Return what is known of a panorama: its tokens, or what they are made of."""
        if (known := self._known.find(run.image)) is not None:
            return _Look(vision_tokens=known)
        image_processor = self.processor.image_processor
        try:
            panorama = image_processor.load(run.image)
            # A second team of OpenMP threads would slow down every operation of the model's.
            return _Look(panorama=panorama) if self._is_on_cpu else _Look(views=image_processor.crop(panorama))
        except CoraError as error:
            return _Look(error=error)

    def _embed(self, image: PanoramaSource, look: _Look) -> Tensor:
        """Return the vision tokens float[T, D] of a panorama; always encoded alone, so that batches change nothing."""
        vision_tokens = look.vision_tokens
        if vision_tokens is None:
            # A panorama with very many questions may have been encoded since.
            vision_tokens = self._known.find(image)
        if vision_tokens is None:
            views = look.views
            if views is None:
                assert look.panorama is not None
                views = self.processor.image_processor.crop(look.panorama)
            vision_tokens = self.model.embed_panoramas(views[None].to(self.model.device))[0]
            self._known.keep(image, vision_tokens)
        return vision_tokens

    def _generate_batch(
        self, batch: Sequence[tuple[Prompt, Tensor]], settings: GenerationSettings
    ) -> Iterator[tuple[int, ...]]:
        """Yield the new tokens of each prompt of a batch, padding included."""
        length = max(len(prompt.token_ids) for prompt, _ in batch)
        paddings = [length - len(prompt.token_ids) for prompt, _ in batch]
        # A token of the prompt itself pads it, because the repetition penalty also sees what attention does not.
        input_ids_BL = torch.tensor(
            [
                prompt.token_ids[-1:] * padding + prompt.token_ids
                for (prompt, _), padding in zip(batch, paddings, strict=True)
            ]
        )
        attention_mask_BL = (torch.arange(length) >= torch.tensor(paddings)[:, None]).long()
        device = self.model.device
        input_ids_BL, attention_mask_BL = input_ids_BL.to(device), attention_mask_BL.to(device)
        embeddings_BLD = self.model.fusion(
            input_ids_BL,
            self.model.language_model.embed(input_ids_BL),
            torch.stack([vision_tokens for _, vision_tokens in batch]),
        )
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(settings.seed)
            # The ids go along for the repetition penalty, which must see the prompt as it does in vLLM.
            sequences = self.model.generate(
                input_ids=input_ids_BL,
                inputs_embeds=embeddings_BLD,
                attention_mask=attention_mask_BL,
                generation_config=_generation_config(settings, batch[0][0].max_new_tokens),
            )
        for row in sequences[:, length:].tolist():
            yield tuple(row)


def _fitting_batch(model: PanoramaVLM, processor: PanoramaProcessor) -> int:
    """Return how many prompts to generate together: larger batches are faster until memory runs out."""
    text = model.config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token_bytes: int = 2 * text.num_hidden_layers * heads * width * model.dtype.itemsize
    prompt_bytes = token_bytes * (processor.num_vision_tokens + _TEXT_TOKENS)
    return max(1, min(_MOST_PROMPTS, _CACHE_BYTES // prompt_bytes))


def _generation_config(settings: GenerationSettings, max_new_tokens: int) -> GenerationConfig:
    options: dict[str, float | bool] = {"do_sample": False}
    if settings.temperature > 0:
        # top_k is off unless asked for; its default in Transformers is 50, vLLM has none.
        options = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens, repetition_penalty=settings.repetition_penalty, use_cache=True, **options
    )
