"""``cora-serve``: an OpenAI-compatible server of panoramas.

Exit codes beside those of every command: 0 after SIGTERM or Ctrl-C, 1 when the engine died.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cora.cli.errors import Command

if TYPE_CHECKING:
    from cora.config.serve import ServeConfig

_PATH = click.Path(path_type=Path)


@click.command("serve", cls=Command)
@click.option("--checkpoint", metavar="DIR", type=_PATH, required=True, help="Export directory of the model.")
@click.option("--host", metavar="ADDRESS", help="Where to listen; 127.0.0.1 unless configured.")
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), help="8000 unless configured; 0 takes a free one.")
@click.option(
    "--api-key",
    metavar="KEY",
    envvar="CORA_API_KEY",
    help="What clients must send. Other users of this machine see command lines: prefer CORA_API_KEY.",
)
@click.option("--insecure", is_flag=True, help="Let other machines ask without a key.")
@click.option("--served-model-name", metavar="NAME", help="What clients call the model.")
@click.option(
    "--allow-media-domain", "domains", metavar="HOST", multiple=True, help="Fetch panoramas from it; repeatable."
)
@click.option("--allow-media-dir", "directory", metavar="DIR", help="Folder that file:// addresses may name.")
@click.option("--accept-flat", is_flag=True, help="Take pictures that are not 2:1 too.")
@click.option("--config", metavar="YAML", type=_PATH, help="Settings, such as configs/serve/default.yaml.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="engine.max_num_seqs=32 or another; repeatable.",
)
@click.pass_context
def main(ctx: click.Context, /, checkpoint: Path, api_key: str | None, insecure: bool, **options: Any) -> None:
    """Serve a model on /v1/chat/completions and /v1/completions, as OpenAI's clients expect it."""
    from cora.serving.server import serve

    ctx.exit(serve(checkpoint, _settings(**options), api_key=api_key, insecure=insecure))


def _settings(
    *,
    config: Path | None,
    overrides: tuple[str, ...],
    domains: tuple[str, ...],
    directory: str | None,
    accept_flat: bool,
    **given: Any,
) -> ServeConfig:
    """Return the settings of the file, with ``--set`` over them and the other options over both."""
    from cora.config.documents import read_document
    from cora.config.manager import ConfigManager, validate
    from cora.config.serve import ServeConfig

    document = ConfigManager.apply_overrides({} if config is None else read_document(config), overrides)
    document |= {name: value for name, value in given.items() if value is not None}
    if accept_flat:
        document["accept_flat"] = True
    media = document["media"] = dict(document.get("media") or {})
    if domains:
        media["domains"] = list(domains)
    if directory is not None:
        media["directory"] = directory
    return validate(ServeConfig, document, source=str(config or "--set"), overrides=overrides, strict=True)


if __name__ == "__main__":
    main()
