"""Loss curves of a stage as a picture."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

__all__ = ["plot_curves", "plot_curves_of_run", "read_metrics"]

# Losses that span less than this factor are easier to read on a linear axis.
_WIDE_RANGE = 4.0

Series = dict[str, list[tuple[int, float]]]


def read_metrics(path: Path) -> Series:
    """Return (step, value) points by metric name from the ``metrics.csv`` of a stage."""
    series: Series = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    series[name].append((int(row["step"]), float(value)))
    return dict(series)


def plot_curves(metrics_csv: Path, picture: Path, *, title: str) -> None:
    """Draw every training and validation loss of a stage over the optimiser steps, on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in sorted(read_metrics(metrics_csv).items()):
        if not name.startswith(("train_", "val_")):
            continue
        steps, values = zip(*points, strict=True)
        is_validation = name.startswith("val_")
        axes.plot(steps, values, label=name, linewidth=1.2, marker="o" if is_validation else None, markersize=4)
    axes.set(title=title, xlabel="optimiser step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=130)


def plot_curves_of_run(run_dir: Path, stages: Sequence[str], picture: Path) -> None:
    """Draw the total training and validation loss of every stage side by side, each on its own axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(stages), 3.2), layout="constrained")
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        metrics = read_metrics(run_dir / stage / "metrics.csv")
        for name, style in (("train_loss", "-"), ("val_loss", "o--")):
            if name in metrics:
                steps, values = zip(*metrics[name], strict=True)
                axes.plot(steps, values, style, label=name.replace("_", " "), linewidth=1.2, markersize=4)
        everything = [value for name in ("train_loss", "val_loss") for _, value in metrics.get(name, [])]
        is_wide = everything and 0 < _WIDE_RANGE * min(everything) < max(everything)
        axes.set(title=stage, xlabel="optimiser step", yscale="log" if is_wide else "linear")
        axes.grid(alpha=0.3, which="both")
        axes.legend(frameon=False)
    figure.savefig(picture, dpi=130)
