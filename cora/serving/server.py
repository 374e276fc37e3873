"""The life of the server: it starts, says where it is, watches the engine, drains, and stops.

Exit codes: 0 after SIGTERM or Ctrl-C, 1 when the engine died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from cora.config.serve import ServeConfig
from cora.errors import ConfigError
from cora.serving.access import check_exposure, is_loopback
from cora.serving.admission import Traffic
from cora.serving.engine import Served, engine_arguments, inspect_checkpoint, open_engine, prepare_environment
from cora.serving.memory import return_large_buffers

__all__ = ["serve"]

logger = logging.getLogger(__name__)

_WATCH_SECONDS = 0.5
# Streams of a dead engine end by themselves, with an error that clients see.
_LAST_WORDS_SECONDS = 1.0
_CONNECTION_SECONDS = 5


def serve(checkpoint: Path, config: ServeConfig, *, api_key: str | None = None, insecure: bool = False) -> int:
    """Serve a checkpoint until a signal comes, and return the exit code.

    Args:
        checkpoint: An export, or a model directory that vLLM knows by itself.
        config: How.
        api_key: What clients must know, or None.
        insecure: Whether other machines may ask without a key.

    Raises:
        ConfigError: The settings do not go together, or the address cannot be listened on.
        CheckpointError: There is nothing to serve.
        BackendUnavailable: vLLM is not installed.
    """
    check_exposure(config.host, api_key, insecure=insecure)
    served = inspect_checkpoint(checkpoint, config.served_model_name)
    prepare_environment()
    return_large_buffers()
    # As Ctrl-C until the loop has its own handlers: an engine that is starting ends with us.
    signal.signal(signal.SIGTERM, _terminate)
    with _listening(config) as listener:
        logger.info("serving %s as '%s'; loading vLLM", served.directory, served.name)
        arguments = engine_arguments(served, config)
        return asyncio.run(_serve(arguments, served, config, listener, api_key=api_key, insecure=insecure))


def _terminate(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


@contextlib.contextmanager
def _listening(config: ServeConfig) -> Iterator[socket.socket]:
    """Take the address before the minute that loading takes; clients are refused until the server is ready."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host.strip("[]"), config.port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {config.host}:{config.port}: {error.strerror or error}") from error
        yield listener


async def _serve(
    arguments: Any,
    served: Served,
    config: ServeConfig,
    listener: socket.socket,
    *,
    api_key: str | None,
    insecure: bool,
) -> int:
    from cora.serving.app import build_application
    from cora.serving.media import PanoramaMedia, register_connector

    traffic = Traffic()
    async with open_engine(served, arguments) as client:
        # A key is the stronger check, and behind a name of its own the server cannot know that name.
        any_host = api_key is not None or insecure or not is_loopback(config.host)
        app, image_processor = await build_application(
            client, arguments, served, config, api_key=api_key, any_host=any_host, traffic=traffic
        )
        register_connector(PanoramaMedia(config.media, accept_flat=config.accept_flat, image_processor=image_processor))
        _say_what_is_served(client, served)
        server = _Server(_settings(app))
        running = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        address = _address(listener)
        guarded = "an API key is needed" if api_key is not None else "no API key is needed"
        logger.info("ready after %.1f s: %s/v1 (%s)", _seconds_since_the_command(), address, guarded)
        code = await _until_the_end(client, traffic, config.limits.drain_seconds)
        server.should_exit = True
        await running
    return code


class _Server(uvicorn.Server):
    """uvicorn without handlers of signals: draining comes before it stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield


def _settings(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_CONNECTION_SECONDS,
        timeout_graceful_shutdown=_CONNECTION_SECONDS,
        # Larger headers than any client of ours sends are refused.
        h11_max_incomplete_event_size=65536,
        http="h11",
    )


async def _until_the_end(client: Any, traffic: Traffic, drain_seconds: float) -> int:
    """Return the exit code when a signal came and requests under way are answered, or when the engine is dead."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    while not stop.is_set():
        if client.errored:
            logger.error("the engine has died; the server stops")
            await traffic.drained(_LAST_WORDS_SECONDS)
            return 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCH_SECONDS):
                await stop.wait()
    logger.info("stopping: %d requests under way have %.0f s", traffic.num_requests, drain_seconds)
    if not await traffic.drained(drain_seconds):
        logger.warning("%d requests were not answered in time", traffic.num_requests)
    return 0


def _say_what_is_served(client: Any, served: Served) -> None:
    settings = client.vllm_config
    cache = settings.cache_config
    if served.num_vision_tokens is not None:
        logger.info(
            "a panorama takes %d of at most %d tokens", served.num_vision_tokens, settings.model_config.max_model_len
        )
    if cache.num_gpu_blocks is not None:
        tokens = cache.num_gpu_blocks * cache.block_size
        dtype = str(settings.model_config.dtype).removeprefix("torch.")
        logger.info("%s on %s; the KV cache holds %d tokens", dtype, settings.device_config.device_type, tokens)


def _seconds_since_the_command() -> float:
    import psutil

    return time.time() - float(psutil.Process().create_time())


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
