"""``cora-bench``: times operations beside their peers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from cora.cli.errors import Group

_ROUNDS = click.option(
    "--rounds", metavar="N", type=click.IntRange(min=1), default=11, show_default=True, help="Timed calls."
)
_WIDTHS = click.option(
    "--width",
    "widths",
    metavar="N",
    type=click.Choice(["1024", "2048", "4096", "8192"]),
    multiple=True,
    help="Width of the panorama, repeatable; all of them by default.",
)
_SIZES = click.option(
    "--size",
    "sizes",
    metavar="N",
    type=click.IntRange(min=8),
    multiple=True,
    help="Side of a view, repeatable; 256 and 448 by default.",
)
_CHART = click.option("--chart", metavar="PNG", type=click.Path(dir_okay=False, path_type=Path), help="Draw a chart.")
_JSON = click.option("--json", "as_json", is_flag=True, help="End with one JSON list of rows.")
_CONFIG = click.option(
    "--config",
    metavar="YAML",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default="configs/tiny.yaml",
    show_default=True,
    help="Sizes and batches; towers and data are made.",
)


@click.group(
    "bench",
    cls=Group,
    lazy={"throughput": "cora.cli.bench_serving:throughput", "serve": "cora.cli.bench_serving:serve"},
)
def main() -> None:
    """Time CORA's operations beside their peers."""


@main.command("crop")
@_WIDTHS
@_SIZES
@click.option("--threads", metavar="N", type=click.IntRange(min=1), multiple=True, help="CPU threads; 1 and all cores.")
@_ROUNDS
@_CHART
@_JSON
def crop(
    widths: Sequence[str], sizes: Sequence[int], threads: Sequence[int], rounds: int, chart: Path | None, as_json: bool
) -> None:
    """Time cutting eight views from a panorama in memory, and compare the pictures with the truth."""
    from cora.bench.crop import SIZES, WIDTHS, run

    rows = run(
        [int(width) for width in widths] or WIDTHS,
        sizes or SIZES,
        threads=threads or sorted({1, os.cpu_count() or 1}),
        rounds=rounds,
        scene_width=max(WIDTHS),
    )
    columns = "source_width size antialias threads ms vs_cv2 vs_py360 vs_research psnr_db research_psnr_db floor_ms"
    _print(rows, columns, as_json, lambda: _draw("draw_crop", rows, chart))


@main.command("preprocess")
@_WIDTHS
@_SIZES
@click.option("--threads", metavar="N", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
@_ROUNDS
@_CHART
@_JSON
def preprocess(
    widths: Sequence[str], sizes: Sequence[int], threads: int, rounds: int, chart: Path | None, as_json: bool
) -> None:
    """Time the way from a JPEG file to the views of a model."""
    from cora.bench.crop import WIDTHS
    from cora.bench.preprocess import run

    chosen = [int(width) for width in widths] or WIDTHS
    rows = run(chosen, sizes or (256,), threads=threads, rounds=rounds, scene_width=max(WIDTHS))
    columns = "source_width size antialias threads ms decode_ms decode_share images_per_s vs_research vs_cv2 psnr_db"
    _print(rows, columns, as_json, lambda: _draw("draw_preprocess", rows, chart))


@main.command("scan")
@click.option("--rounds", metavar="N", type=click.IntRange(min=1), default=7, show_default=True, help="Timed calls.")
@_JSON
def scan(rounds: int, as_json: bool) -> None:
    """Time the selective scan and its convolution, forward and backward, beside other ways."""
    from cora.bench.scan import run

    rows = run(rounds=rounds)
    columns = "case pass ms vs_slow vs_loop vs_pscan vs_torch both_over_one calls_over_one rel_rms floor_ms"
    _print(rows, columns, as_json, lambda: None)


@main.command("resampler")
@click.option("--case", "cases", metavar="TEXT", multiple=True, help="Only cases with this in their name, repeatable.")
@_ROUNDS
@_JSON
def resampler(cases: Sequence[str], rounds: int, as_json: bool) -> None:
    """Time what resamplers are made of beside torch eager and torch.compile."""
    from cora.bench.resampler import run

    rows = run(cases, rounds=rounds)
    _print(rows, "case pass ms vs_eager vs_compile rel_rms floor_ms", as_json, lambda: None)


@main.command("eval")
@_CONFIG
@click.option("--backend", default="auto", show_default=True, help="auto, vllm or transformers.")
@click.option("--rounds", metavar="N", type=click.IntRange(min=1), default=3, show_default=True, help="Sets of images.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON document.")
def evaluation(config: Path, backend: str, rounds: int, as_json: bool) -> None:
    """Time an evaluation run beside one question at a time, and the caption metrics."""
    from cora.bench.eval import run

    row = run(config, backend=backend, rounds=rounds)
    columns = "sequential_rps cold_rps repeat_rps cold_ratio repeat_ratio equal_answers metrics_s pycocoevalcap_s"
    _print([row], columns, False, lambda: click.echo(f"back end {row['backend']}, {row['max_new_tokens']} new tokens"))
    if as_json:
        click.echo(json.dumps(row))


@main.command("captions")
@click.option("--rounds", metavar="N", type=click.IntRange(min=1), default=3, show_default=True, help="Timed calls.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON document.")
def captions(rounds: int, as_json: bool) -> None:
    """Time all caption metrics but SPICE beside pycocoevalcap."""
    from cora.bench.captions import run

    row = run(rounds=rounds)
    _print([row], "captions distinct vocabulary metrics_s pycocoevalcap_s ratio cores", False, lambda: None)
    if as_json:
        click.echo(json.dumps(row))


@main.command("train")
@_CONFIG
@click.option("--samples", metavar="N", type=click.IntRange(min=1), default=64, show_default=True, help="Panoramas.")
@click.option("--rounds", metavar="N", type=click.IntRange(min=1), default=2, show_default=True, help="Counted epochs.")
@_JSON
def train(config: Path, samples: int, rounds: int, as_json: bool) -> None:
    """Time the training stages, with packed questions and cached features and without, and the wait for data."""
    from cora.bench.train import run

    rows = run(config, samples=samples, rounds=rounds)
    _print(rows, "stage samples_per_s data_share packed cache cache_gain vs_alone", as_json, lambda: None)


def _draw(function: str, rows: list[dict[str, Any]], chart: Path | None) -> None:
    from cora.bench import charts

    if chart is not None:
        getattr(charts, function)(rows, chart)
        click.echo(f"chart: {chart}")


def _print(rows: list[dict[str, Any]], columns: str, as_json: bool, draw: Callable[[], None]) -> None:
    """Print the main columns as a table, where the figures come from, and the rows as JSON if asked."""
    names = columns.split()
    click.echo("  ".join(name.rjust(8) for name in names))
    for row in rows:
        cells = ["-" if row[name] is None else str(row[name]) for name in names]
        click.echo("  ".join(cell.rjust(max(8, len(name))) for name, cell in zip(names, cells, strict=True)))
    first = rows[0]
    click.echo(
        f"medians of {first['rounds']} rounds; {first['device']}, {first['cores']} cores, torch {first['torch']}"
    )
    draw()
    if as_json:
        click.echo(json.dumps(rows))
