"""Fills the tables of docs/benchmarks.md from the results under bench/results, so that they cannot drift apart.

python docs/benchmarks.py

A benchmark that is measured row by row puts its rows there by itself; a row takes the place of the one it repeats:

cora-bench captions --json | python docs/benchmarks.py captions "commit ..., date; ..."
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"

CROP = {
    "source_width": "width",
    "size": "view",
    "antialias": "antialias",
    "threads": "threads",
    "ms": "ms",
    "p25_ms": "p25",
    "p75_ms": "p75",
    "vs_cv2": "OpenCV",
    "vs_py360": "py360convert",
    "vs_research": "research",
    "vs_grid_sample": "grid_sample",
    "vs_one_thread": "one thread",
    "psnr_db": "PSNR dB",
    "research_psnr_db": "research dB",
    "max_lsb": "max LSB",
    "floor_ms": "floor ms",
}
PREPROCESS = {
    "source_width": "width",
    "size": "view",
    "antialias": "antialias",
    "ms": "ms",
    "p25_ms": "p25",
    "p75_ms": "p75",
    "decode_ms": "decode ms",
    "decode_share": "share",
    "images_per_s": "images/s",
    "vs_research": "research",
    "vs_cv2": "OpenCV",
    "psnr_db": "PSNR dB",
    "research_psnr_db": "research dB",
}
RESAMPLER = {
    "device": "processor",
    "case": "case",
    "pass": "pass",
    "instructions": "oneDNN",
    "impl": "CORA",
    "ms": "ms",
    "p25_ms": "p25",
    "p75_ms": "p75",
    "vs_eager": "eager",
    "vs_compile": "compile",
    "rel_rms": "error",
    "eager_rel_rms": "eager error",
    "floor_ms": "floor ms",
    "rounds": "rounds",
}

SCAN = {
    "device": "processor",
    "case": "case",
    "pass": "pass",
    "instructions": "instructions",
    "ms": "ms",
    "p25_ms": "p25",
    "p75_ms": "p75",
    "vs_slow": "slow path",
    "vs_loop": "loop",
    "vs_pscan": "pscan",
    "vs_torch": "torch",
    "both_over_one": "both / one",
    "calls_over_one": "calls / one",
    "rel_rms": "error",
    "worst_rel_rms": "worst gradient",
    "floor_ms": "floor ms",
}

TRAIN = {
    "stage": "stage",
    "packed": "packed",
    "cache": "cache",
    "samples_per_s": "panoramas/s",
    "data_share": "share of loading",
    "cache_gain": "gain by the cache",
    "vs_alone": "over neither",
    "batch_size": "batch",
}

THROUGHPUT = {
    "way": "way",
    "requests_per_s": "requests/s",
    "times_sequential": "over one by one",
    "tokens_per_s": "tokens/s",
    "first_token_p50_ms": "first token p50 ms",
    "first_token_p90_ms": "p90",
    "first_token_p99_ms": "p99",
    "inter_token_p50_ms": "next token p50 ms",
    "inter_token_p90_ms": "p90",
    "inter_token_p99_ms": "p99",
    "preprocessing_share": "share of preprocessing",
    "equal_answers": "equal answers",
}

EVAL = {
    "backend": "back end",
    "cores": "cores",
    "sequential_rps": "one by one, answers/s",
    "cold_rps": "run",
    "repeat_rps": "other questions",
    "cold_ratio": "run / one by one",
    "repeat_ratio": "other questions / one by one",
    "equal_answers": "equal answers",
    "rounds": "rounds",
}

SERVE = {
    "load": "load",
    "seconds": "seconds",
    "requests": "requests",
    "answered": "answered",
    "answers_per_s": "answers/s",
    "goodput_per_s": "good/s",
    "first_token_p50_ms": "first token p50 ms",
    "first_token_p99_ms": "p99",
    "inter_token_p50_ms": "next token p50 ms",
    "inter_token_p99_ms": "p99",
    "total_p50_ms": "answer p50 ms",
    "total_p90_ms": "p90",
    "total_p99_ms": "p99",
    "errors": "refused",
    "memory_mb": "MiB",
    "memory_drift": "drift",
}

CAPTIONS = {
    "cores": "cores",
    "captions": "captions",
    "distinct": "distinct texts",
    "vocabulary": "different words",
    "words": "words each",
    "metrics_s": "seconds",
    "pycocoevalcap_s": "pycocoevalcap",
    "ratio": "ratio",
    "largest_difference": "largest difference",
    "rounds": "rounds",
}

# What tells a row from another, where they are measured one by one.
KEYS = {"captions": ("cores",), "eval": ("backend", "cores")}

TABLES = {
    "crop": CROP,
    "preprocess": PREPROCESS,
    "scan": SCAN,
    "resampler": RESAMPLER,
    "train": TRAIN,
    "eval": EVAL,
    "captions": CAPTIONS,
    "throughput": THROUGHPUT,
    "serve": SERVE,
}


def table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Return rows as a Markdown table, numbers to the right."""
    lines = [" | ".join(columns.values()), " | ".join("---:" for _ in columns)]
    lines += [" | ".join(_cell(row[key], key) for key in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(value: Any, key: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == {}:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items())
    if isinstance(value, str):
        return value
    return f"{value:g} x" if key.startswith("vs_") or key.endswith("_gain") else f"{value:g}"


def filled(page: str) -> str:
    """Return the page with its tables replaced by those of the results."""
    for name, columns in TABLES.items():
        result = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())
        body = f"{result['provenance']}\n\n{table(result['rows'], columns)}"
        pattern = rf"(<!-- {name} -->\n).*?(\n<!-- end -->)"
        page, count = re.subn(pattern, lambda match, body=body: match[1] + body + match[2], page, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{PAGE} has {count} places for the table {name}, not one")
    return page


def add_row(path: Path, row: dict[str, Any], keys: tuple[str, ...], provenance: str) -> None:
    """Put a row into a file of results, for the one that it repeats or as the last one."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    places = [place for place, other in enumerate(rows) if all(other[key] == row[key] for key in keys)]
    rows[slice(places[0], places[0] + 1) if places else slice(len(rows), None)] = [row]
    path.write_text(json.dumps({"provenance": provenance, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        name, provenance = sys.argv[1:]
        row = json.loads(sys.stdin.read().splitlines()[-1])
        add_row(ROOT / "bench" / "results" / f"{name}.json", row, KEYS[name], provenance)
    PAGE.write_text(filled(PAGE.read_text()))
