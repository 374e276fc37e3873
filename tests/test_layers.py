"""Imports point one way: every module may import only what its row of the table allows."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from cora.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent

# Package -> the packages it may import, besides itself. A new package needs a row here, and a reason to exist.
FOUNDATION = {"config", "errors", "files", "provenance", "registry", "types"}
KERNELS = {"_C", "triton_kernels"}
GEOMETRY = FOUNDATION | {"geometry"}
OPS = GEOMETRY | KERNELS | {"ops"}
PROCESSORS = OPS | {"processors", "_auto_classes"}
MODEL = PROCESSORS | {"model"}
USES = MODEL | {"data", "inference", "vllm_plugin"}
APPLICATIONS = USES | {"training", "serving", "evaluation"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "files": {"errors"},
    "provenance": set(),
    # Scripts of pages, for whoever makes one.
    "viewer": set(),
    "registry": {"errors"},
    "config": {"errors"},
    "geometry": FOUNDATION,
    "triton_kernels": FOUNDATION,
    # One file per operation: it plans with geometry, and chooses among the kernels.
    "ops": GEOMETRY | KERNELS,
    # Registers classes by name, so it imports none: those classes import it.
    "_auto_classes": set(),
    "processors": OPS | {"_auto_classes"},
    "model": PROCESSORS,
    "data": MODEL,
    "inference": MODEL,
    "vllm_plugin": MODEL,
    # Not each other: a command injects what one needs of another.
    "training": USES,
    "serving": USES | {"viewer"},
    "evaluation": USES | {"viewer"},
    "baseline": APPLICATIONS,
    "bench": APPLICATIONS,
    "quickstart": APPLICATIONS,
    "cli": APPLICATIONS | {"baseline", "bench", "quickstart"},
    "": {"_auto_classes"},
}
# What the packages that every command loads may import at module level, besides the standard library.
LIGHT_THIRD_PARTY = {"click", "pydantic", "yaml"}
LIGHT = ("errors", "types", "registry", "config", "_auto_classes", "")
# Of the commands, those modules that ``--help`` loads; others of cora.cli are imported inside a command's body.
LIGHT_COMMANDS = {
    *(f"cora.cli.{name}" for name in ("environment", "errors", "logs", "main", "options", "settings", "shard")),
    *(target.partition(":")[0] for target in COMMANDS.values()),
}

MODULES = sorted(
    [
        *(ROOT / "cora").rglob("*.py"),
        *(ROOT / "triton_kernels").rglob("*.py"),
        *(ROOT / "bench").rglob("*.py"),
    ]
)


def module_name(path: Path) -> str:
    """Return the dotted name a file is imported under: ``bench/crop.py`` is ``cora.bench.crop``."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != "cora":
        parts.insert(0, "cora")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(name: str) -> str:
    """Return the row of the table: the part after ``cora``, empty for ``cora`` itself."""
    return [*name.split("."), ""][1]


def is_light(name: str) -> bool:
    """Return whether a module of ours must load nothing heavy when it is imported."""
    return package_of(name) in LIGHT or name in LIGHT_COMMANDS


def imported_names(tree: ast.AST, module: str, *, is_package: bool) -> set[str]:
    """Return the absolute names `tree` imports, those inside functions and type checks included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + (1 if is_package else 0)]
                base = ".".join([*parents, base] if base else parents)
            # `from cora import ops` imports cora.ops; a name that is no module is its package's own.
            names |= {f"{base}.{alias.name}" if base == "cora" else base for alias in node.names}
    return names


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return a line for each import of `source` that the table does not allow."""
    package = package_of(module)
    found = []
    for name in sorted(imported_names(ast.parse(source), module, is_package=is_package)):
        if name.split(".")[0] in {"bench", "triton_kernels"}:
            found.append(f"{module} imports {name}: its name is cora.{name}")
        if name.split(".")[0] != "cora" or name == "cora.__version__":
            continue
        target = package_of(name)
        if target != package and target not in ALLOWED[package] and target:
            found.append(f"{module} imports {name}: {package or 'cora'} may import {sorted(ALLOWED[package])}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_layers(path):
    module = module_name(path)
    assert package_of(module) in ALLOWED, f"{module}: add its package to the table"
    assert violations(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if is_light(module_name(path))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_light_modules_import_nothing_heavy_at_the_top(path):
    module = module_name(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    heavy = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            heavy |= {name for name in imported_names(node, module, is_package=False) if not _may_load(name)}
    assert heavy == set()


def test_the_table_has_no_cycle():
    seen: set[str] = set()
    remaining = dict(ALLOWED)
    while remaining:
        ready = {package for package, allowed in remaining.items() if allowed - KERNELS <= seen | KERNELS}
        assert ready, f"these import each other: {sorted(remaining)}"
        seen |= ready
        remaining = {package: allowed for package, allowed in remaining.items() if package not in ready}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cora.geometry.sphere", "from cora.ops import erp_to_views"),
        ("cora.geometry.sphere", "def f():\n    import cora.model.vlm"),
        ("cora.training.trainer", "from cora.evaluation.metrics import CORAEvaluator"),
        ("cora.config.schema", "from ..processors import images"),
        ("cora.ops.scan", "from cora import model"),
        ("cora.cli.bench", "import bench.crop"),
        ("cora.ops.scan", "from triton_kernels.scan import kernel"),
        ("cora.model.vlm", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cora.data.table import Row"),
    ],
)
def test_a_forbidden_import_is_found(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cora.ops.scan", "from .reference import scan\nfrom cora.triton_kernels.scan import kernel\nimport cora._C"),
        ("cora.cli.train", "def main():\n    from cora.training.trainer import CORATrainer"),
        ("cora.provenance", "import cora\nfrom cora import __version__"),
    ],
)
def test_an_allowed_import_is_not(module, source):
    assert violations(source, module) == []


def _may_load(name: str) -> bool:
    top = name.split(".")[0]
    if top == "cora":
        return is_light(name) or name == "cora.__version__"
    return top in sys.stdlib_module_names or top in LIGHT_THIRD_PARTY
