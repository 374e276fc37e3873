"""The command ``cora``, which holds all the others."""

from __future__ import annotations

import click

from cora import __version__
from cora.cli.errors import Group

# name -> "module:attribute"; a module is imported when its command is asked for.
COMMANDS = {
    "quickstart": "cora.cli.quickstart:main",
    "train": "cora.cli.train:main",
    "dry-run": "cora.cli.dry_run:main",
    "export": "cora.cli.export:main",
    "eval": "cora.cli.eval:main",
    "ask": "cora.cli.ask:main",
    "report": "cora.cli.report:main",
    "collect": "cora.cli.collect:main",
    "judge": "cora.cli.judge:main",
    "metrics": "cora.cli.metrics:main",
    "convert": "cora.cli.convert:main",
    "crop": "cora.cli.crop:main",
    "serve": "cora.cli.serve:main",
    "bench": "cora.cli.bench:main",
    "doctor": "cora.cli.doctor:main",
}


@click.group("cora", cls=Group, lazy=COMMANDS)
@click.version_option(__version__, prog_name="cora")
def main() -> None:
    """Vision-language models that see 360° panoramas."""


if __name__ == "__main__":
    main()
