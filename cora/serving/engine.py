"""vLLM's engine for a checkpoint: its settings, and the client that talks to it.

Two processes: this one decodes panoramas and speaks HTTP, the other runs the model.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import warnings
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from cora.config.serve import ServeConfig
from cora.errors import BackendUnavailable, CheckpointError, ConfigError, did_you_mean
from cora.inference.checkpoint import open_export
from cora.inference.vllm_backend import context_tokens, set_environment, why_unavailable

__all__ = ["Served", "engine_arguments", "inspect_checkpoint", "open_engine"]

logger = logging.getLogger(__name__)

# No host has this name: vLLM's own fetching, which our connector replaces, would refuse every address.
_NO_DOMAIN = "none.invalid"


@dataclass(frozen=True, slots=True)
class Served:
    """What is served.

    Attributes:
        directory: The checkpoint.
        name: What clients call it.
        is_export: Whether it is an export of CORA, and not another model of Transformers.
        num_vision_tokens: T of an export.
        context: Most tokens of prompt and answer of an export; None leaves it to vLLM.
    """

    directory: Path
    name: str
    is_export: bool
    num_vision_tokens: int | None = None
    context: int | None = None


def inspect_checkpoint(directory: Path, name: str | None) -> Served:
    """Return what a checkpoint is; nothing heavy is loaded.

    Raises:
        CheckpointError: It is no export of CORA, and no other model in a Hugging Face directory.
    """
    resolved = directory.resolve()
    name = name or (resolved.parent.name if resolved.name == "export" else resolved.name)
    if _model_type(directory) not in (None, "cora"):
        return Served(directory, name, is_export=False)
    open_export(directory)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory)
    return Served(directory, name, True, int(config.num_vision_tokens), context_tokens(config))


def _model_type(directory: Path) -> str | None:
    try:
        kind = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("model_type")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{directory / 'config.json'} cannot be read: {error}") from error
    return str(kind)


def prepare_environment() -> None:
    """Set what vLLM reads from the environment when it is imported, or say what is not installed."""
    if (reason := why_unavailable()) is not None:
        raise BackendUnavailable(f"cora-serve: {reason}")
    set_environment()
    # Routes for developers would bring control over the engine.
    os.environ.pop("VLLM_SERVER_DEV_MODE", None)
    os.environ["VLLM_MEDIA_CONNECTOR"] = "cora"


def engine_arguments(served: Served, config: ServeConfig) -> Namespace:
    """Return vLLM's command line for a checkpoint, as it parses it.

    Raises:
        ConfigError: `config.engine` has a flag that vLLM does not know, or a value it does not take.
    """
    # What vLLM's own code is warned of says nothing to whoever runs a server.
    with warnings.catch_warnings(action="ignore"):
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
        from vllm.platforms import current_platform
        from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM is untyped here
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"engine: {message}")

    given = {name.replace("-", "_"): value for name, value in config.engine.items()}
    parser = make_arg_parser(Parser())
    known = {action.dest for action in parser._actions}
    for name in given:
        if name not in known:
            raise ConfigError(f"engine.{name}: vLLM has no such flag{did_you_mean(name, known)}")
    settings = _defaults(served, config, is_cpu=bool(current_platform.is_cpu())) | given
    arguments: Namespace = parser.parse_args(_as_flags(settings))
    arguments.api_key = None
    validate_parsed_serve_args(arguments)
    return arguments


def _defaults(served: Served, config: ServeConfig, *, is_cpu: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model": str(served.directory),
        "served_model_name": [served.name],
        "host": config.host,
        "port": config.port,
        "allowed_media_domains": [_NO_DOMAIN],
        "limit_mm_per_prompt": {"image": 1},
        "enable_prefix_caching": True,
        "mm_processor_cache_gb": 1,
        "shutdown_timeout": round(config.limits.drain_seconds),
        # A hash of the engine's settings is nobody's business.
        "fingerprint_mode": "none",
        "disable_fastapi_docs": True,
    }
    if served.context is not None:
        settings["max_model_len"] = served.context
    if is_cpu:
        # As for evaluation: compiling gains nothing there, and larger blocks share fewer prefixes.
        settings |= {"dtype": "float32", "enforce_eager": True, "block_size": 32}
    return settings


def _as_flags(settings: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if isinstance(value, bool):
            flags.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, dict):
            flags += [flag, json.dumps(value)]
        elif isinstance(value, list):
            flags += [flag, *map(str, value)]
        else:
            flags += [flag, str(value)]
    return flags


@contextlib.asynccontextmanager
async def open_engine(served: Served, arguments: Namespace) -> AsyncIterator[Any]:
    """Start the engine and yield the client that talks to it; the engine's process ends with the block.

    Raises:
        BackendUnavailable: vLLM lacks a package that this model's class needs.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    options = AsyncEngineArgs.from_cli_args(arguments)
    try:
        settings = options.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    except ValueError as error:
        if (known := _why_not_loaded(served, error)) is not None:
            raise known from error
        raise
    client = AsyncLLM.from_vllm_config(
        vllm_config=settings,
        usage_context=UsageContext.OPENAI_API_SERVER,
        enable_log_requests=False,
        disable_log_stats=options.disable_log_stats,
    )
    try:
        # The pictures that memory was measured with.
        await client.reset_mm_cache()
        yield client
    finally:
        client.shutdown(timeout=0)


def _why_not_loaded(served: Served, error: ValueError) -> BackendUnavailable | None:
    """Return what to say where vLLM has a class for the model that does not import here, None for other errors."""
    if (found := re.search(r"architectures \['(\w+)'.* failed to be inspected", str(error))) is None:
        return None
    message = f"cora-serve: {served.directory}: vLLM cannot load {found[1]} here"
    if find_spec("torchvision") is None:
        message += "; its code may need torchvision, of the same build (CPU or CUDA) as torch: pip install torchvision"
    return BackendUnavailable(f"{message} (vLLM's own error stands above)")
