"""The names packages have when they are built, installed, or found on the path of a checkout."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_python(code: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=cwd)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The Python files of a build, without compiling the extension."""
    folder = tmp_path_factory.mktemp("build")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "-e", folder, "build_py", "--build-lib", folder / "lib"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return folder / "lib"


def test_a_build_holds_one_top_level_package(built):
    assert [path.name for path in built.iterdir()] == ["cora"]
    assert (built / "cora/triton_kernels/__init__.py").is_file()
    assert (built / "cora/bench/__init__.py").is_file()
    assert (built / "cora/py.typed").is_file()


def test_a_build_holds_every_file_of_the_packages(built):
    """But for the results of the benchmarks, which belong to the repository alone."""

    def files(folder, prefix=""):
        return {
            prefix + str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and path.suffix not in {".pyc", ".so"} and path.parent.name != "results"
        }

    expected = (
        files(ROOT / "cora") | files(ROOT / "bench", "bench/") | files(ROOT / "triton_kernels", "triton_kernels/")
    )
    assert files(built / "cora") == expected


def test_installed_names_are_below_cora(repository):
    for name, folder in (("cora.triton_kernels", "triton_kernels"), ("cora.bench", "bench")):
        spec = importlib.util.find_spec(name)
        assert spec is not None, f"{name} is not found: install the project (make env)"
        assert Path(str(spec.origin)) == repository / folder / "__init__.py"
    done = run_python("import bench, triton_kernels", cwd=repository.parent)
    assert "ModuleNotFoundError" in done.stderr, "the bare names must not be installed"


def test_the_bare_name_triton_kernels_does_not_import_in_the_checkout(repository):
    """vLLM takes any module of that name for OpenAI's; a process started in the checkout has ours on its path."""
    done = run_python("import triton_kernels", cwd=repository)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("ImportError: ")
    done = run_python("import cora.triton_kernels", cwd=repository)
    assert done.returncode == 0, done.stderr


def test_vllm_finds_the_plugin():
    points = metadata.entry_points(group="vllm.general_plugins", name="cora")
    assert [point.value for point in points] == ["cora.vllm_plugin:register"]
    assert callable(next(iter(points)).load())


def test_torch_is_not_a_build_requirement():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert not [name for name in project["build-system"]["requires"] if name.startswith("torch")]


@pytest.mark.parametrize("name", ["base", "cpu", "cuda"])
def test_constraints_are_exact_and_meet_the_requirements(name):
    from packaging.requirements import Requirement

    pinned = {}
    for line in (ROOT / "constraints" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "-c ")):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            pinned[requirement.name.lower()] = specifier.version
    for text in metadata.requires("cora-panorama") or []:
        wanted = Requirement(text)
        version = pinned.get(wanted.name.lower())
        assert version is None or wanted.specifier.contains(version), f"{name}.txt pins {version}, needed: {wanted}"


def test_the_two_bad_releases_of_lightning_are_excluded():
    from packaging.requirements import Requirement

    (lightning,) = (
        requirement
        for requirement in map(Requirement, metadata.requires("cora-panorama") or [])
        if requirement.name == "lightning"
    )
    assert lightning.specifier.contains("2.6.6")
    assert not lightning.specifier.contains("2.6.2")
    assert not lightning.specifier.contains("2.6.3")
