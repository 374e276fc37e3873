"""Loss curves of a stage as a picture."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

__all__ = ["plot_curves", "read_metrics"]

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
