"""What must be instant is: `import cora`, the configuration, and every ``--help``."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cora.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "lightning", "vllm", "numpy", "PIL", "matplotlib")
HELP_SECONDS = 0.5

LIGHT_STATEMENTS = [
    "import cora",
    "import cora.types, cora.errors, cora.registry",
    "import cora.config.manager, cora.config.schema",
    "import cora.cli.main",
    *(f"import {target.partition(':')[0]}" for target in COMMANDS.values()),
]


def scripts() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(project["scripts"])


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT
    )


@pytest.mark.parametrize("statement", LIGHT_STATEMENTS)
def test_import_loads_nothing_heavy(statement):
    done = run_python(f"{statement}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        *([script] for script in scripts()),
        *(["cora", command] for command in COMMANDS),
        ["cora-bench", "crop"],
    ],
    ids=" ".join,
)
def test_help_is_light_and_fast(arguments):
    script, *rest = arguments
    module, _, attribute = scripts()[script].partition(":")
    code = (
        f"from {module} import {attribute} as main\nimport sys\n"
        f"main(sys.argv[1:], prog_name={script!r}, standalone_mode=False)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        before = _child_cpu_seconds()
        done = run_python(code, *rest, "--help")
        seconds.append(_child_cpu_seconds() - before)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")
    assert done.stdout.splitlines()[-1] == "[]"
    assert min(seconds) < HELP_SECONDS, f"{' '.join(arguments)} --help took {min(seconds):.2f} s of processor time"


def test_every_script_is_installed():
    folder = Path(sys.executable).parent
    assert [name for name in scripts() if not os.access(folder / name, os.X_OK)] == []


def _child_cpu_seconds() -> float:
    """Processor time, not wall time: the measure must not depend on what else the machine does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
