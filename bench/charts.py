"""Charts of benchmark rows, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from cora.bench.serve import Outcome

__all__ = ["draw_crop", "draw_preprocess", "draw_serve", "draw_throughput"]

_PEERS = {"cv2": "OpenCV remap", "py360": "py360convert", "research": "py360convert at 672, shrunk"}


def draw_crop(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the times of one thread over the panorama's width, one panel a view size; beside them the quality."""
    rows = [row for row in rows if row["threads"] == min(each["threads"] for each in rows)]
    sizes = sorted({row["size"] for row in rows})
    figure = Figure(figsize=(5.2 * len(sizes), 7.5), layout="constrained")
    panels = figure.subplots(2, len(sizes), squeeze=False)
    for column, size in enumerate(sizes):
        times, quality = panels[0][column], panels[1][column]
        for antialias, name in ((True, "CORA, antialiased"), (False, "CORA, bilinear")):
            mine = [row for row in rows if row["size"] == size and row["antialias"] == antialias]
            widths = [row["source_width"] for row in mine]
            times.plot(widths, [row["ms"] for row in mine], marker="o", label=name)
            quality.plot(widths, [row["psnr_db"] for row in mine], marker="o", label=name)
        for peer, name in _PEERS.items():
            known = [row for row in mine if row[f"vs_{peer}"] is not None]
            milliseconds = [row["ms"] * row[f"vs_{peer}"] for row in known]
            times.plot([row["source_width"] for row in known], milliseconds, marker="s", linestyle="--", label=name)
        times.plot(widths, [row["floor_ms"] for row in mine], color="grey", linestyle=":", label="memory floor")
        known = [row for row in mine if row["research_psnr_db"] is not None]
        research = [row["research_psnr_db"] for row in known]
        widths = [row["source_width"] for row in known]
        quality.plot(widths, research, marker="s", linestyle="--", color="C4", label=_PEERS["research"])
        times.set(title=f"8 views of {size} x {size}", ylabel="ms, one thread", xscale="log", yscale="log")
        quality.set(xlabel="width of the panorama", ylabel="PSNR in dB", xscale="log")
        for axes in (times, quality):
            _finish(axes, sorted({row["source_width"] for row in rows}))
    # Above the lines it would hide some of them.
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(path, dpi=120)


def draw_preprocess(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the times from a JPEG file to antialiased views: decoding and cutting stacked, the peers beside them."""
    rows = [row for row in rows if row["antialias"]]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    decoding = [row["decode_ms"] for row in rows]
    axes.bar([place - 0.25 for place in places], decoding, 0.25, label="CORA: decode")
    cutting = [row["ms"] - row["decode_ms"] for row in rows]
    axes.bar([place - 0.25 for place in places], cutting, 0.25, bottom=decoding, label="CORA: cut")
    for offset, (peer, name) in enumerate(
        (("cv2", "simplejpeg + OpenCV"), ("research", "Pillow + py360convert at 672"))
    ):
        known = [(place, row) for place, row in zip(places, rows, strict=True) if row[f"vs_{peer}"] is not None]
        milliseconds = [row["ms"] * row[f"vs_{peer}"] for _, row in known]
        axes.bar([place + 0.25 * offset for place, _ in known], milliseconds, 0.25, label=name)
    labels = [f"{row['source_width']} to\n{row['size']}" for row in rows]
    axes.set(
        xticks=list(places), xticklabels=labels, ylabel="ms, one thread", xlabel="width of the panorama, side of a view"
    )
    # A sum is stacked as it is on a linear scale only; the slowest peers may leave the picture.
    axes.set_ylim(0, 2.2 * max(row["ms"] for row in rows))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def draw_throughput(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw requests per second, and the waits for the first token and between tokens, of each way."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    rates, *waits = figure.subplots(1, 3)
    names = [row["way"].replace(", ", ",\n").replace(" (", "\n(") for row in rows]
    bars = rates.bar(names, [row["requests_per_s"] for row in rows], color=["C1", "C0"])
    rates.bar_label(bars, [f"{row['requests_per_s']:g}\n{row['times_sequential']:g} x" for row in rows])
    rates.set(title="requests/s")
    rates.margins(y=0.2)
    for axes, wait in zip(waits, ("first_token", "inter_token"), strict=True):
        for row, colour in zip(rows, ("C1", "C0"), strict=True):
            _draw_percentiles(axes, row, wait, label=row["way"], color=colour)
        axes.set(title=f"{wait.replace('_', ' ')}, ms", yscale="log")
    waits[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def draw_serve(outcome: Outcome, path: Path) -> None:
    """Draw the time that each answer took, over when it was asked for, the percentiles, and the server's memory."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    times, waits = figure.subplots(1, 2, width_ratios=(2, 1))
    sent, seconds = zip(*outcome.totals, strict=True)
    times.scatter(sent, seconds, s=6, color="C0", label="answer")
    times.set(xlabel="sent at, s", ylabel="seconds until an answer ended", title=outcome.row["load"])
    times.set_ylim(bottom=0)
    if outcome.memory:
        memory = times.twinx()
        memory.plot(*zip(*outcome.memory, strict=True), color="C3")
        memory.set_ylabel("MiB of the server's processes", color="C3")
        memory.set_ylim(bottom=0)
    for wait, colour in (("first_token", "C2"), ("inter_token", "C4"), ("total", "C0")):
        _draw_percentiles(waits, outcome.row, wait, label=wait.replace("_", " "), color=colour)
    waits.set(title="ms", yscale="log")
    waits.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _draw_percentiles(axes: Any, row: dict[str, Any], wait: str, **style: Any) -> None:
    values = {f"p{each}": row[f"{wait}_p{each}_ms"] for each in (50, 90, 99)}
    known = {name: value for name, value in values.items() if value is not None}
    axes.plot(list(known), list(known.values()), marker="o", **style)
    axes.grid(alpha=0.3)


def _finish(axes: Any, widths: Sequence[int]) -> None:
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
