"""``cora-bench throughput`` and ``cora-bench serve``: how fast questions are answered, offline and by a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cora.cli.errors import Command

if TYPE_CHECKING:
    from cora.bench.serve import Outcome

_CHART = click.option("--chart", metavar="PNG", type=click.Path(dir_okay=False, path_type=Path), help="Draw a chart.")
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_PERCENTILES = (50, 90, 99)


@click.command("throughput", cls=Command)
@click.option("--checkpoint", metavar="DIR", type=_FOLDER, help="Export to answer with; one is made by default.")
@click.option(
    "--config",
    metavar="YAML",
    type=_FILE,
    default="configs/tiny.yaml",
    show_default=True,
    help="Length of answers, and sizes of the model that is made.",
)
@click.option("--rounds", metavar="N", type=click.IntRange(min=1), default=3, show_default=True, help="Sets of images.")
@_CHART
@click.option("--json", "as_json", is_flag=True, help="End with one JSON list of rows.")
def throughput(checkpoint: Path | None, config: Path, rounds: int, chart: Path | None, as_json: bool) -> None:
    """Time 60 questions about 20 panoramas through vLLM, and one by one through Transformers."""
    from cora.bench.throughput import run

    rows = run(config, checkpoint=checkpoint, rounds=rounds)
    for row in rows:
        click.echo(
            f"{row['way']}: {row['requests_per_s']} requests/s ({row['times_sequential']} x), "
            f"{row['tokens_per_s']} tokens/s, {row['preprocessing_share']:.0%} of the time preprocessing, "
            f"{row['equal_answers']:.0%} of answers equal"
        )
        _say_waits(row, ("first_token", "inter_token"))
    if chart is not None:
        from cora.bench.charts import draw_throughput

        draw_throughput(rows, chart)
        click.echo(f"chart: {chart}")
    if as_json:
        click.echo(json.dumps(rows))


@click.command("serve", cls=Command)
@click.argument("table", type=_FILE)
@click.option("--url", metavar="URL", default="http://127.0.0.1:8000/v1", show_default=True, help="The server.")
@click.option(
    "--rate", metavar="R", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Per second."
)
@click.option(
    "--requests", "num_requests", metavar="N", type=click.IntRange(1), default=100, show_default=True, help="How many."
)
@click.option("--soak", metavar="SECONDS", type=click.FloatRange(0, min_open=True), help="Instead: always under way.")
@click.option(
    "--concurrent", metavar="N", type=click.IntRange(1), default=200, show_default=True, help="Clients of a soak."
)
@click.option("--within", metavar="MS", type=float, help="Longest time of a good answer; all are good by default.")
@click.option("--pid", metavar="PID", type=click.IntRange(1), help="Process of the server, to watch its memory.")
@_CHART
@click.option("--json", "as_json", is_flag=True, help="End with one JSON document.")
def serve(
    table: Path,
    url: str,
    *,
    rate: float,
    num_requests: int,
    soak: float | None,
    concurrent: int,
    within: float | None,
    pid: int | None,
    chart: Path | None,
    as_json: bool,
) -> None:
    """Ask a running server the questions of TABLE, at random moments or as a soak, and time its answers."""
    from cora.bench.serve import Load, run
    from cora.data.table import read_rows
    from cora.inference.credentials import find_endpoint
    from cora.inference.vllm_backend import set_environment

    set_environment()
    load = Load(rate, num_requests, soak, concurrent, within)
    outcome = run(read_rows(table), find_endpoint("", url), load, pid=pid)
    _say_outcome(outcome)
    if chart is not None:
        from cora.bench.charts import draw_serve

        draw_serve(outcome, chart)
        click.echo(f"chart: {chart}")
    if as_json:
        click.echo(json.dumps(outcome.row))


def _say_outcome(outcome: Outcome) -> None:
    row = outcome.row
    click.echo(
        f"{row['load']} for {row['seconds']} s: {row['answered']} of {row['requests']} requests answered, "
        f"{row['answers_per_s']}/s, {row['goodput_per_s']}/s of them good, {row['tokens_per_s']} tokens/s"
    )
    _say_waits(row, ("first_token", "inter_token", "total"))
    for ending, count in sorted(row["errors"].items()):
        click.echo(f"  {ending}: {count}")
    if row["memory_mb"] is not None:
        grown = "" if row["memory_drift"] is None else f", {row['memory_drift']:+.1%} after the warm-up"
        click.echo(f"  memory {row['memory_mb']} MiB, at most {row['memory_peak_mb']} MiB{grown}")


def _say_waits(row: dict[str, Any], waits: tuple[str, ...]) -> None:
    for wait in waits:
        values = " / ".join(str(row[f"{wait}_p{each}_ms"]) for each in _PERCENTILES)
        click.echo(f"  {wait.replace('_', ' ')} p50/p90/p99: {values} ms")
