"""Generation with Transformers: batched, left padded, a panorama loaded, cut and encoded once for all its questions.

Shapes: B prompts of a batch, L padded length, T vision tokens, D width of the language model.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from cora.inference.streams import ImageRun, Indexed, generate_all, image_identity, image_runs, prepared

if TYPE_CHECKING:
    from cora.model.vlm import PanoramaVLM
    from cora.processors.processor import PanoramaProcessor

__all__ = ["TransformersBackend", "resolve_device"]

logger = logging.getLogger(__name__)

# (position of the request, its prompt, the panorama's tokens float[T, D])
_Ready = tuple[int, Prompt, Tensor]
_MOST_PROMPTS = 32
_CACHE_BYTES = 2 * 2**30
# Question and answer, roughly.
_TEXT_TOKENS = 256
# Language models without a list of layer types that attend to everything before.
_PLAIN_ATTENTION = ("llama",)
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
        self._sees_everything = _sees_everything(model.config.text_config)
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
            for run, vision_tokens in self._embedded(looks):
                prompts, failures = encode_requests(
                    self.processor, run.requests, max_new_tokens=settings.max_new_tokens, context=self.context
                )
                if isinstance(vision_tokens, CoraError):
                    failures.update((prompt.index, failed(vision_tokens)) for prompt in prompts)
                if failures:
                    yield [(run.start + index, failure) for index, failure in failures.items()]
                if isinstance(vision_tokens, CoraError):
                    continue
                for prompt in prompts:
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

    def _embedded(self, looks: Iterable[tuple[ImageRun, _Look]]) -> Iterator[tuple[ImageRun, Tensor | CoraError]]:
        """Yield every panorama's vision tokens float[T, D], or its fault."""
        remaining = iter(looks)
        while group := list(islice(remaining, self.model.panoramas_at_once)):
            tokens: dict[Hashable, Tensor] = {}
            new: dict[Hashable, _Look] = {}
            for run, look in group:
                # A panorama with very many questions may have been encoded since.
                known = self._known.find(run.image) if look.vision_tokens is None else look.vision_tokens
                if known is not None:
                    tokens[image_identity(run.image)] = known
                elif look.error is None:
                    new[image_identity(run.image)] = look
            tokens.update(zip(new, self.model.embed_each(map(self._views, new.values())), strict=True))
            for run, look in group:
                if look.error is not None:
                    yield run, look.error
                    continue
                found = tokens[image_identity(run.image)]
                self._known.keep(run.image, found)
                yield run, found

    def _views(self, look: _Look) -> Tensor:
        """Return the views float[V, 3, h, w] of a panorama, on the model's device."""
        views = look.views
        if views is None:
            assert look.panorama is not None
            views = self.processor.image_processor.crop(look.panorama)
        return views.to(self.model.device)

    def _generate_batch(
        self, batch: Sequence[tuple[Prompt, Tensor]], settings: GenerationSettings
    ) -> Iterator[tuple[int, ...]]:
        """Yield the new tokens of each prompt of a batch, padding included."""
        device = self.model.device
        inputs = self._begun(batch) or self._whole(batch)
        length = inputs["input_ids"].shape[1]
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(settings.seed)
            sequences = self.model.generate(
                **inputs, generation_config=_generation_config(settings, batch[0][0].max_new_tokens)
            )
        for row in sequences[:, length:].tolist():
            yield tuple(row)

    def _whole(self, batch: Sequence[tuple[Prompt, Tensor]]) -> dict[str, Any]:
        """Return what ``generate`` is given where it begins with the first token."""
        input_ids_BL, attention_mask_BL = self._padded([prompt.token_ids for prompt, _ in batch])
        embeddings_BLD = self.model.fusion(
            input_ids_BL,
            self.model.language_model.embed(input_ids_BL),
            torch.stack([vision_tokens for _, vision_tokens in batch]),
        )
        # The ids go along for the repetition penalty, which must see the prompt as it does in vLLM.
        return {"input_ids": input_ids_BL, "inputs_embeds": embeddings_BLD, "attention_mask": attention_mask_BL}

    def _begun(self, batch: Sequence[tuple[Prompt, Tensor]]) -> dict[str, Any] | None:
        """Return what ``generate`` is given where the common start of all prompts is read once per panorama.

        The padding lies between that start and the question then; positions do not count it. None where that would
        save nothing, or where a layer looks back a number of places, padding included.
        """
        panoramas: dict[int, Tensor] = {}
        for _, tokens in batch:
            panoramas.setdefault(id(tokens), tokens)
        prompts = [prompt.token_ids for prompt, _ in batch]
        start = self._common_start(prompts)
        if len(panoramas) == len(batch) or start is None or not self._sees_everything:
            return None
        start_ids_PL = torch.tensor([prompts[0][:start]] * len(panoramas), device=self.model.device)
        start_BLD = self.model.fusion(
            start_ids_PL, self.model.language_model.embed(start_ids_PL), torch.stack(list(panoramas.values()))
        )
        cache = self.model(
            inputs_embeds=start_BLD,
            attention_mask=torch.ones_like(start_ids_PL),
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
        numbers = {key: number for number, key in enumerate(panoramas)}
        cache.batch_select_indices(torch.tensor([numbers[id(tokens)] for _, tokens in batch], device=self.model.device))
        rest_BL, mask_BL = self._padded([prompt[start:] for prompt in prompts])
        start_BL = start_ids_PL[:1].expand(len(batch), -1)
        return {
            "input_ids": torch.cat([start_BL, rest_BL], dim=1),
            "attention_mask": torch.cat([torch.ones_like(start_BL), mask_BL], dim=1),
            "past_key_values": cache,
        }

    def _common_start(self, prompts: Sequence[tuple[int, ...]]) -> int | None:
        """Return the number of tokens that all prompts begin with, or None where not all of the panorama is in it."""
        shortest = min(map(len, prompts)) - 1
        first, last = min(prompts), max(prompts)
        start = next((place for place in range(shortest) if first[place] != last[place]), shortest)
        placeholder = self.processor.image_token_id
        return None if any(placeholder in prompt[start:] for prompt in prompts) else start

    def _padded(self, token_ids: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Return (ids, attention mask) int64[B, L] of token ids that are padded on the left."""
        length = max(map(len, token_ids))
        paddings = [length - len(ids) for ids in token_ids]
        # A token of the prompt itself pads it, because the repetition penalty also sees what attention does not.
        ids_BL = torch.tensor([ids[-1:] * padding + ids for ids, padding in zip(token_ids, paddings, strict=True)])
        mask_BL = (torch.arange(length) >= torch.tensor(paddings)[:, None]).long()
        return ids_BL.to(self.model.device), mask_BL.to(self.model.device)


def _sees_everything(text: Any) -> bool:
    """Return whether every layer attends to all tokens before, as far as the configuration tells."""
    kinds = getattr(text, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    return text.model_type in _PLAIN_ATTENTION and getattr(text, "sliding_window", None) is None


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
