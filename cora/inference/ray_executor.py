"""Answers from several engines: Ray Data starts workers, each opens the export once, and questions are dealt to them.

The driver keeps the journal and never loads a model; what workers get and give is JSON text. All questions about one
panorama go to one worker, which cuts and encodes it once. Export and panoramas must lie under the same paths on all
machines.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.errors import BackendUnavailable, CoraError
from cora.inference.checkpoint import open_export
from cora.inference.generator import PanoramaGenerator, load_parts
from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, failed
from cora.inference.streams import Indexed, generate_all, image_runs

if TYPE_CHECKING:
    from cora.types import ViewSpec

__all__ = ["RayGenerator", "start_ray"]

logger = logging.getLogger(__name__)

# Questions that a worker is given together: enough to fill its batches, and as many as its death may cost.
_QUESTIONS_PER_PARCEL = 64
# A parcel that ended this many workers is not given to another one.
_MOST_DEATHS = 3
# Texts only; the default is a third of the machine's memory.
_STORE_BYTES = 128 * 2**20
# What Ray reads at import, where the user has not set it: it reports nothing to anybody, and is silent but for errors.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_LOG_LEVEL": "ERROR"}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What every worker opens and needs: CPUs and GPUs as Ray counts them."""

    checkpoint: str
    backend: str
    device: str
    num_workers: int
    num_cpus: int
    num_gpus: int


class RayGenerator:
    """Answers with several workers; see `cora.inference.protocol.Generator`.

    Its name and digests are those of one engine in this process, so a journal is continued by either.

    Args:
        checkpoint: Export directory, as every worker sees it.
        backend: Of the workers: ``auto``, ``vllm`` or ``transformers``.
        device: Of the workers.
        num_workers: None is one for each GPU of the cluster, or for each machine where there are none.

    Raises:
        BackendUnavailable: Ray is not installed, or the cluster has no room for the workers.
        CheckpointError: The directory is no export.
    """

    # Questions in flight are counted by Ray; this is for those who ask chunk by chunk.
    chunk_size = _QUESTIONS_PER_PARCEL

    def __init__(
        self,
        checkpoint: str | Path,
        backend: str = "auto",
        *,
        device: str = "auto",
        num_workers: int | None = None,
    ) -> None:
        export = open_export(Path(checkpoint).absolute())
        _, processor = load_parts(export)
        self.views: tuple[ViewSpec, ...] = tuple(processor.image_processor.views)
        self.model_digest = export.model_digest()
        self.processor_digest = export.processor_digest()
        self._is_ours = start_ray(num_workers)
        try:
            self._plan = _plan(str(export.directory), backend, device, num_workers)
            self.name = _name_of_a_worker(self._plan)
        except BaseException:
            self.close()
            raise

    def generate(
        self, requests: Sequence[GenerationRequest], settings: GenerationSettings | None = None
    ) -> list[GenerationResult]:
        """Return one result per request, in order."""
        return generate_all(self, requests, settings or GenerationSettings())

    def stream(
        self, requests: Iterable[GenerationRequest], settings: GenerationSettings | None = None
    ) -> Iterator[list[Indexed]]:
        """Yield (position of the request, result) parcel by parcel, as workers finish them.

        All requests are taken first. A parcel whose worker dies is given to another; after three deaths its questions
        fail, and the others go on.

        Raises:
            BackendUnavailable: A worker cannot open the export, or fails at something that is no single request's
                fault. What was yielded before stays valid.
        """
        parcels, strangers = _parcels(requests)
        if strangers:
            yield [(position, failed("the executor ray takes panoramas as files only")) for position in strangers]
        waiting = {position for parcel in parcels for position, _, _ in parcel}
        if not parcels:
            return
        by_worker: Counter[str] = Counter()
        for text in _answers(self._plan, self.name, parcels, settings or GenerationSettings()):
            message = json.loads(text)
            if "refusal" in message:
                raise BackendUnavailable(message["refusal"])
            finished = [
                (position, GenerationResult(answer, tuple(token_ids), reason, error))
                for position, answer, token_ids, reason, error in message["results"]
            ]
            waiting.difference_update(position for position, _ in finished)
            by_worker[message["worker"]] += len(finished)
            yield finished
        shares = ", ".join(f"{worker} {count}" for worker, count in sorted(by_worker.items()))
        logger.info("executor ray: questions by worker: %s", shares)
        if waiting:
            logger.warning("%d questions have no answer: their workers died", len(waiting))
            yield [
                (position, failed(f"{_MOST_DEATHS} workers died while they answered this or questions beside it"))
                for position in sorted(waiting)
            ]

    def close(self) -> None:
        """End the local cluster, if this started one."""
        if self._is_ours:
            import ray

            ray.shutdown()


def start_ray(num_workers: int | None = None) -> bool:
    """Connect to the cluster of ``RAY_ADDRESS``, or start one on this machine; return whether there was none before.

    Args:
        num_workers: A local cluster has room for so many, even on fewer cores.

    Raises:
        BackendUnavailable: Ray is not installed, or the cluster cannot be reached.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise BackendUnavailable("executor ray: Ray Data is not installed: pip install 'cora-panorama[ray]'")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": address}
    if not address:
        # Some of Ray's ports listen on every address whatever it is told, and whoever may speak to them runs code. So
        # it asks for a token, which it would otherwise leave in the user's home.
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        options = {
            "address": "local",
            "num_cpus": max(len(os.sched_getaffinity(0)), num_workers or 1),
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise BackendUnavailable(f"executor ray: {address or 'a local cluster'} cannot be used: {error}") from error
    return True


def _plan(checkpoint: str, backend: str, device: str, num_workers: int | None) -> _Plan:
    """Return how many workers there are with what, and log it with the reason."""
    import ray

    total = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    cpus, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    num_gpus = 1 if device != "cpu" and gpus else 0
    if device not in ("auto", "cpu") and not num_gpus:
        raise BackendUnavailable(f"executor ray: device {device}: the cluster has no GPU")
    if num_workers is None:
        num_workers = gpus if num_gpus else nodes
        reason = "one for each GPU" if num_gpus else "one for each machine, as there is no GPU to use"
    else:
        reason = "asked for"
    most = gpus if num_gpus else cpus
    if num_workers > most:
        raise BackendUnavailable(
            f"executor ray: {num_workers} workers do not fit: the cluster has {most} {'GPUs' if num_gpus else 'CPUs'}"
        )
    plan = _Plan(checkpoint, backend, device, num_workers, _cpus_each(num_workers), num_gpus)
    logger.info(
        "executor ray: %d workers (%s), %d CPUs and %d GPUs each, cluster %s",
        num_workers,
        reason,
        plan.num_cpus,
        num_gpus,
        os.environ.get("RAY_ADDRESS") or "on this machine only",
    )
    return plan


def _cpus_each(num_workers: int) -> int:
    """Return the most CPUs per worker with which all workers find a machine."""
    import ray

    sizes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return max((n for n in range(1, max(sizes) + 1) if sum(size // n for size in sizes) >= num_workers), default=1)


def _name_of_a_worker(plan: _Plan) -> str:
    """Return back end, device and precision of the workers, which only they can tell.

    Answers are looked up by it before any is asked for.
    """
    import ray

    # A process of its own, so that no memory of a GPU stays taken.
    ask = ray.remote(num_cpus=plan.num_cpus, num_gpus=plan.num_gpus, max_calls=1, max_retries=0)(_opened_name)
    try:
        return str(ray.get(ask.remote(plan.checkpoint, plan.backend, plan.device)))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CoraError):
            raise error.cause from error
        raise BackendUnavailable(f"executor ray: a worker cannot open {plan.checkpoint}: {error.cause}") from error
    except ray.exceptions.RayError as error:
        raise BackendUnavailable(f"executor ray: a worker died opening {plan.checkpoint}: {error}") from error


def _opened_name(checkpoint: str, backend: str, device: str) -> str:
    generator = PanoramaGenerator.from_checkpoint(checkpoint, backend, device=device)
    try:
        return generator.name
    finally:
        generator.close()


# (position of the request, file, question)
_Asked = tuple[int, str, str]


def _parcels(requests: Iterable[GenerationRequest]) -> tuple[list[list[_Asked]], list[int]]:
    """Return requests in parcels of whole panoramas, and the positions of those that are about no file."""
    parcels, strangers = list[list[_Asked]](), list[int]()
    for run in image_runs(requests):
        if not isinstance(run.image, (str, Path)):
            strangers += range(run.start, run.start + len(run.requests))
            continue
        image = str(Path(run.image).absolute())
        asked = [(run.start + index, image, request.query) for index, request in enumerate(run.requests)]
        if not parcels or len(parcels[-1]) + len(asked) > _QUESTIONS_PER_PARCEL:
            parcels.append([])
        parcels[-1] += asked
    return parcels, strangers


def _answers(
    plan: _Plan, name: str, parcels: Sequence[Sequence[_Asked]], settings: GenerationSettings
) -> Iterator[str]:
    """Yield what workers say to parcels, as they say it."""
    import ray.data

    # Ray warns of options of its own, and of `max_task_retries`, for which there is no other way yet.
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # A block is a parcel here; one that is lost costs its own questions only.
        context.max_errored_blocks = -1
    with ray.data.DataContext.current(context), warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        data = ray.data.from_items(
            [{"parcel": json.dumps(parcel)} for parcel in parcels], override_num_blocks=len(parcels)
        ).map(
            _Worker,
            fn_constructor_args=(plan, name, settings),
            compute=ray.data.ActorPoolStrategy(size=plan.num_workers, max_tasks_in_flight_per_actor=1),
            num_cpus=plan.num_cpus,
            num_gpus=plan.num_gpus,
            max_task_retries=_MOST_DEATHS - 1,
        )
    for batch in data.iter_batches(batch_size=None, prefetch_batches=0):
        yield from batch["answers"]


class _Worker:
    """Opens the export once and answers parcels; runs in a process of Ray's."""

    def __init__(self, plan: _Plan, name: str, settings: GenerationSettings) -> None:
        self._settings = settings
        self._refusal: str | None = None
        try:
            self._generator = PanoramaGenerator.from_checkpoint(plan.checkpoint, plan.backend, device=plan.device)
        except Exception as error:  # whatever it is: Ray would start such a worker again and again
            self._refuse(error)
            return
        if self._generator.name != name:
            self._refuse(f"runs {self._generator.name}, another one {name}: their answers must not be mixed")

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        asked: list[_Asked] = json.loads(row["parcel"])
        if self._refusal is None:
            try:
                results = self._generator.generate(
                    [GenerationRequest(Path(image), query) for _, image, query in asked], self._settings
                )
            except Exception as error:  # as in a run of one process, it ends the run
                self._refuse(error)
        if self._refusal is not None:
            return {"answers": json.dumps({"refusal": self._refusal})}
        positions = [position for position, _, _ in asked]
        answers = [(position, *asdict(result).values()) for position, result in zip(positions, results, strict=True)]
        return {"answers": json.dumps({"worker": f"{socket.gethostname()}:{os.getpid()}", "results": answers})}

    def _refuse(self, why: object) -> None:
        kind = f"{type(why).__name__}: " if isinstance(why, Exception) and not isinstance(why, CoraError) else ""
        self._refusal = f"executor ray: a worker on {socket.gethostname()}: {kind}{why}"
