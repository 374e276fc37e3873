"""``cora dry-run``: sends one batch through every stage of a configuration and says what a run would need."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cora.cli.errors import Command
from cora.cli.options import config_options

if TYPE_CHECKING:
    from cora.training.dry_run import StageReport


@click.command("dry-run", cls=Command)
@config_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
@click.pass_context
def main(ctx: click.Context, /, config: str, overrides: tuple[str, ...], strict: bool, as_json: bool) -> None:
    """Try one batch in every stage, without training: shapes, tokens, memory, and keys that are unknown.

    Exits with 2 when a stage would not run.
    """
    from cora.config.manager import ConfigManager
    from cora.config.sections import unknown_keys

    settings = ConfigManager.load(config, overrides=overrides, strict=strict)
    unknown = [{"key": key.path, "hint": key.hint.strip()} for key in unknown_keys(settings)]
    from cora.training.dry_run import dry_run

    reports = dry_run(settings)
    if as_json:
        click.echo(json.dumps({"unknown_keys": unknown, "stages": [_as_document(report) for report in reports]}))
    else:
        for key in unknown:
            click.echo(f"unknown key {key['key']} {key['hint']}".rstrip())
        click.echo("\n\n".join(_as_text(report) for report in reports))
    for report in reports:
        if report.error is not None:
            click.echo(f"error: stage {report.stage}: {' '.join(report.error.split())}", err=True)
    ctx.exit(2 if any(report.error is not None for report in reports) else 0)


def _as_document(report: StageReport) -> dict[str, Any]:
    document = asdict(report)
    if report.memory is not None:
        document["memory"]["total"] = report.memory.total
    return document


def _as_text(report: StageReport) -> str:
    lines = [f"stage {report.stage}: {'would not run' if report.error else 'runs'}"]

    def line(label: str, items: list[str]) -> None:
        if items:
            lines.append(f"  {label:<11}{', '.join(items)}")

    line("batch", [f"{name} {'x'.join(map(str, shape))}" for name, shape in report.shapes.items()])
    line("tokens", [f"{name.replace('_', ' ')} {count}" for name, count in report.tokens.items()])
    line("trained", [f"{name.replace('_', ' ')} {count:,}" for name, count in report.trained.items()])
    line("losses", [f"{name} {value:.4g}" for name, value in report.losses.items()])
    if (memory := report.memory) is not None:
        parts = {
            "weights (counted)": memory.parameters,
            "gradients (counted)": memory.gradients,
            "optimiser (computed)": memory.optimizer,
            "activations (measured)": memory.activations,
            "together": memory.total,
        }
        line("memory", [f"{name} {_megabytes(size)}" for name, size in parts.items()])
        if memory.device_peak is not None:
            line("", [f"most allocated on the GPU, without optimiser (measured) {_megabytes(memory.device_peak)}"])
    if report.seconds is not None:
        line("time", [f"{report.seconds:.2f} s forward and backward, the first time"])
    return "\n".join(lines)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
