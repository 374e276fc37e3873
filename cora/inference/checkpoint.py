"""Checks that a directory is a complete CORA export, and says which one it is.

Reads JSON and bytes only; nothing here loads a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.errors import CheckpointError

if TYPE_CHECKING:
    from cora.model.configuration import PanoramaVLMConfig
    from cora.processors.processor import PanoramaProcessor

__all__ = ["Export", "check_agreement", "open_export"]

_CHUNK_BYTES = 2**20
# What turns a panorama and a question into model input; a file that an export lacks adds nothing to the digest.
_PROCESSOR_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


@dataclass(frozen=True, slots=True)
class Export:
    """An export directory that has all its parts.

    Attributes:
        directory: Where it lies.
        weights: Its safetensors files, sorted by name.
    """

    directory: Path
    weights: tuple[Path, ...]

    def model_digest(self) -> str:
        """Return the SHA-256 of configuration, generation configuration and weights, reading every byte."""
        configs = (self.directory / name for name in ("config.json", "generation_config.json"))
        return _digest([*(path for path in configs if path.is_file()), *self.weights])

    def processor_digest(self) -> str:
        """Return the SHA-256 of tokenizer, chat template and image processing."""
        return _digest(path for name in _PROCESSOR_FILES if (path := self.directory / name).is_file())


def open_export(directory: str | Path) -> Export:
    """Return the export in a directory.

    Raises:
        CheckpointError: It is none; the message says what is missing or of which kind it is instead.
    """
    directory = Path(directory)
    if not directory.is_dir():
        kind = "is a file, not an export directory" if directory.exists() else "does not exist"
        raise CheckpointError(f"checkpoint {directory} {kind}")
    if not (directory / "config.json").is_file():
        nested = directory / "export"
        hint = f"; did you mean {nested}?" if (nested / "config.json").is_file() else ""
        raise CheckpointError(f"checkpoint {directory} is no CORA export: it has no config.json{hint}")
    config = _read_json(directory / "config.json")
    if config.get("model_type") != "cora":
        raise CheckpointError(
            f"checkpoint {directory} is no CORA export: model_type in config.json is {config.get('model_type')!r}, "
            "not 'cora'"
        )
    weights = tuple(sorted(directory.glob("*.safetensors")))
    missing = [name for name in ("processor_config.json", "tokenizer_config.json") if not (directory / name).is_file()]
    missing += [] if weights else ["weights (*.safetensors)"]
    missing += _missing_shards(directory)
    if missing:
        raise CheckpointError(f"checkpoint {directory} is incomplete: {', '.join(missing)} missing")
    return Export(directory, weights)


def check_agreement(directory: Path, config: PanoramaVLMConfig, processor: PanoramaProcessor) -> None:
    """Raise CheckpointError unless model and processor of an export cut panoramas the same way."""
    of_model, of_processor = config.image_processing or {}, processor.image_processor.to_dict()
    differing = sorted(
        f"{name} ({of_model.get(name, 'absent')!r} and {of_processor.get(name, 'absent')!r})"
        for name in of_model.keys() | of_processor.keys()
        if _plain(of_model.get(name)) != _plain(of_processor.get(name))
    )
    if differing:
        raise CheckpointError(
            f"checkpoint {directory}: config.json and processor disagree on image_processing: {', '.join(differing)}"
        )
    if config.num_vision_tokens != processor.num_vision_tokens:
        raise CheckpointError(
            f"checkpoint {directory}: the model makes {config.num_vision_tokens} vision tokens of a panorama, "
            f"the processor leaves room for {processor.num_vision_tokens}"
        )


def _plain(value: object) -> object:
    """Return a value as JSON would give it back, so that tuples equal lists."""
    return json.loads(json.dumps(value))


def _missing_shards(directory: Path) -> list[str]:
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return []
    shards = set(_read_json(index).get("weight_map", {}).values())
    return sorted(name for name in shards if not (directory / name).is_file())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def _digest(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        # Name and length first, so that bytes cannot move from one file to the next unnoticed.
        total.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                total.update(chunk)
    return total.hexdigest()
