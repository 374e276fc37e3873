"""``cora ask``: one question about one panorama, answered in the terminal by an export or by a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from cora.cli.errors import Command
from cora.errors import ConfigError

if TYPE_CHECKING:
    from cora.inference.credentials import Endpoint
    from cora.inference.protocol import GenerationRequest, GenerationSettings


@click.command("ask", cls=Command)
@click.argument("panorama", type=click.Path(path_type=Path))
@click.argument("question")
@click.option("--checkpoint", metavar="DIR", type=click.Path(path_type=Path), help="Export directory of the model.")
@click.option(
    "--url",
    metavar="URL",
    help="Ask a server instead, such as http://127.0.0.1:8000; its key comes from CORA_API_KEY or OPENAI_API_KEY.",
)
@click.option("--model", metavar="NAME", help="The server's name of the model, where it has several.")
@click.option(
    "--backend", metavar="NAME", default="transformers", show_default=True,
    help="What runs a checkpoint: transformers, which starts sooner, or vllm.",
)  # fmt: skip
@click.option(
    "--max-tokens", metavar="N", type=click.IntRange(1), default=256, show_default=True,
    help="Most tokens of the answer.",
)  # fmt: skip
def main(panorama: Path, question: str, checkpoint: Path | None, url: str | None, **options: str) -> None:
    """Answer QUESTION about PANORAMA: the answer goes to standard output as it is written, and nothing else does."""
    from cora.inference.protocol import GenerationRequest, GenerationSettings

    if not question.strip():
        raise ConfigError("the question is empty")
    request = GenerationRequest(panorama, question)
    settings = GenerationSettings(max_new_tokens=int(options["max_tokens"]))
    if checkpoint is not None and url is None:
        parts = _from_checkpoint(checkpoint, options["backend"], request, settings)
    elif url is not None and checkpoint is None:
        parts = _from_server(url, options["model"], request, settings)
    else:
        raise ConfigError("give either --checkpoint DIR or --url URL")
    for part in parts:
        click.echo(part, nl=False)
    click.echo()


def _from_checkpoint(
    checkpoint: Path, backend: str, request: GenerationRequest, settings: GenerationSettings
) -> Iterator[str]:
    from cora.inference.generator import PanoramaGenerator

    generator = PanoramaGenerator.from_checkpoint(checkpoint, backend)
    try:
        yield generator.answer(request.image, request.query, settings)
    finally:
        generator.close()


def _from_server(
    url: str, model: str | None, request: GenerationRequest, settings: GenerationSettings
) -> Iterator[str]:
    from cora.inference.credentials import find_endpoint
    from cora.inference.openai_backend import OpenAIBackend

    base_url = url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1"
    # Who sits in front of a terminal asks again when they want to.
    endpoint = find_endpoint(model or "", base_url, max_retries=1)
    backend = OpenAIBackend(endpoint if model else _with_only_model(endpoint))
    try:
        yield from backend.parts(request, settings)
    finally:
        backend.close()


def _with_only_model(endpoint: Endpoint) -> Endpoint:
    from cora.inference.endpoint import ChatClient

    with ChatClient(endpoint) as client:
        names = client.model_names()
    if len(names) != 1:
        raise ConfigError(f"{endpoint.base_url} has {len(names)} models, choose one with --model: {', '.join(names)}")
    return replace(endpoint, model=names[0])


if __name__ == "__main__":
    main()
