"""``cora collect``: runs over the same questions side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cora.cli.errors import Command


@click.command("collect", cls=Command)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--baseline", metavar="RUN", type=click.Path(path_type=Path), help="Compare with it; default: the first.")
@click.option("--metric", "metrics", metavar="NAME", multiple=True, help="Compare in it; repeatable; default: all.")
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), help="Also write comparison.md, .tex and .csv there."
)
@click.option(
    "--resamples", default=2000, show_default=True, type=click.IntRange(min=100), help="Draws of the paired bootstrap."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the draws.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def main(
    runs: tuple[Path, ...],
    baseline: Path | None,
    metrics: tuple[str, ...],
    out: Path | None,
    resamples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Compare evaluations of the same questions: scores, the best in bold, and what differs from a baseline.

    Each RUN is the output folder of an evaluation.
    """
    from cora.evaluation.comparison import collect
    from cora.evaluation.comparison_tables import as_markdown, as_rows, write_tables

    comparison = collect(runs, baseline=baseline, metrics=metrics, resamples=resamples, seed=seed)
    if out is not None:
        write_tables(out, comparison)
    if as_json:
        document = {"baseline": comparison.baseline, "scores": as_rows(comparison), "remarks": comparison.remarks}
        click.echo(json.dumps(document))
    else:
        click.echo(as_markdown(comparison), nl=False)
