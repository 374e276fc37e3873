"""One script for a machine with a GPU: build the extension, check every implementation, time it, write JSON.

    PYTHONPATH=. python bench/gpu/run.py --build --out bench/results/<device>.json

Every implementation of every operation that is there is checked against float64 on random inputs, the gradients too;
only what is right is timed. Without a GPU the checks run on the CPU, and what needs a GPU is listed and counted.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import torch

from cora.bench.gpu import kernel_runs, views
from cora.bench.gpu.events import copy_bandwidth
from cora.ops.dispatch import Implementation, available_faces
from cora.ops.erp_to_views import available_implementations

__all__ = ["run"]

ROOT = Path(__file__).resolve().parents[2]


def run(*, rounds: int = 50, cases: int = 40, seed: int = 0) -> dict[str, Any]:
    """Return the report: environment, checks, timings, and what was skipped for want of a GPU."""
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    faces: dict[str, list[Implementation]] = {"erp_to_views": [*available_implementations(device.type)]}
    checks = [views.check(impl, device, cases, seed) for impl in faces["erp_to_views"]]
    for operation in kernel_runs.OPERATIONS:
        faces[operation] = [*available_faces(f"{operation}_forward", device.type)]
        checks += [kernel_runs.check(operation, impl, device.type, cases, seed) for impl in faces[operation]]
    report: dict[str, Any] = {"environment": _environment(has_gpu), "checks": checks, "timings": [], "skipped": []}
    if has_gpu:
        right: dict[str, list[Implementation]] = {operation: [] for operation in faces}
        for check in checks:
            if check["passed"]:
                right[check["op"]].append(check["impl"])
        bandwidth = copy_bandwidth()
        report["copy_gb_per_s"] = round(bandwidth / 1e9, 1)
        for case in views.TIMED:
            report["timings"] += views.time_case(right["erp_to_views"], *case, rounds=rounds, bandwidth=bandwidth)
        for timed in kernel_runs.TIMED:
            faces_of = right[timed.operation]
            report["timings"] += kernel_runs.time_case(faces_of, timed, rounds=rounds, bandwidth=bandwidth)
    else:
        names = [views.name_of(*case) for case in views.TIMED]
        names += [case.name for case in kernel_runs.TIMED]
        checked = [f"check of '{impl}' of {operation}" for operation in faces for impl in ("cuda", "triton")]
        report["skipped"] = [f"{each}: needs a GPU" for each in (*checked, *(f"timing of {name}" for name in names))]
    report["num_skipped"] = len(report["skipped"])
    report["passed"] = all(check["passed"] for check in checks)
    return report


def _environment(has_gpu: bool) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "device": torch.cuda.get_device_name() if has_gpu else platform.processor() or platform.machine(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if has_gpu else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """Return what a program prints; None where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The JSON file to write.")
@click.option("--build", is_flag=True, help="Build the extension and install this checkout first.")
@click.option("--rounds", default=50, show_default=True, help="Timed calls of each candidate.")
@click.option("--cases", default=40, show_default=True, help="Random cases of each check.")
def main(out: Path, build: bool, rounds: int, cases: int) -> None:
    """Check and time the kernels on this machine."""
    if build:
        # Without dependencies: what is timed is the torch that is there. The new extension needs a new process.
        install = ["-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--editable", str(ROOT)]
        subprocess.run([sys.executable, *install], check=True)
        os.execv(sys.executable, [sys.executable, *(each for each in sys.argv if each != "--build")])
    report = run(rounds=rounds, cases=cases)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    for row in (*report["checks"], *report["timings"]):
        click.echo(json.dumps(row))
    click.echo(f"skipped for want of a GPU: {report['num_skipped']}; wrote {out}")
    sys.exit(0 if report["passed"] else 1)


if __name__ == "__main__":
    main()
