"""``cora doctor``: what is installed here, what is missing, and what is broken."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from cora.cli.environment import run_checks
from cora.cli.errors import Command


@click.command("doctor", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@click.pass_context
def main(ctx: click.Context, as_json: bool) -> None:
    """Say what is installed, missing and broken; the exit code is 1 when something is broken."""
    checks = list(run_checks())
    healthy = all(check.state != "broken" for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": healthy, "checks": [asdict(check) for check in checks]}))
    else:
        for check in checks:
            click.echo(f"{check.state:<7} {check.name:<13} {check.detail}")
    ctx.exit(0 if healthy else 1)
