"""Makes the Auto classes of transformers know CORA, without importing transformers until somebody else does.

Importing `cora` must stay light, and yet ``AutoConfig.from_pretrained(an_export)`` must work after it. So a finder
waits for the three modules that hold the Auto classes, and registers our classes once such a module has run.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["register_loaded_classes", "register_when_transformers_loads"]

_CONFIG = ("cora.model.configuration", "PanoramaVLMConfig")
_PROCESSOR = ("cora.processors.processor", "PanoramaProcessor")
_MODEL = ("cora.model.vlm", "PanoramaVLM")


def _register_config(auto: ModuleType, config: Any) -> None:
    auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_processor(auto: ModuleType, config: Any, processor: Any) -> None:
    auto.AutoProcessor.register(config, processor, exist_ok=True)


def _register_model(auto: ModuleType, config: Any, model: Any) -> None:
    for name in ("AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText"):
        getattr(auto, name).register(config, model, exist_ok=True)


_Registration = tuple[Callable[..., None], tuple[tuple[str, str], ...]]
_REGISTRATIONS: dict[str, _Registration] = {
    "transformers.models.auto.configuration_auto": (_register_config, (_CONFIG,)),
    "transformers.models.auto.processing_auto": (_register_processor, (_CONFIG, _PROCESSOR)),
    "transformers.models.auto.modeling_auto": (_register_model, (_CONFIG, _MODEL)),
}
# Auto modules that have run to their end.
_ready: set[str] = set()


def register_loaded_classes() -> None:
    """Register our classes with every Auto module that is loaded.

    Our own modules call this at their end too: when one of them is what made transformers load, its class does not
    exist yet at that moment and is left out until it does.
    """
    for name in sorted(_ready):
        register, wanted = _REGISTRATIONS[name]
        classes = [getattr(importlib.import_module(module), attribute, None) for module, attribute in wanted]
        if all(found is not None for found in classes):
            register(sys.modules[name], *classes)


def register_when_transformers_loads() -> None:
    """Register our classes now with what is loaded of transformers, and later with what is loaded later."""
    _ready.update(name for name in _REGISTRATIONS if name in sys.modules)
    if not any(isinstance(finder, _AutoModuleFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoModuleFinder())
    register_loaded_classes()


class _AutoModuleFinder(MetaPathFinder):
    """Finds the Auto modules as the other finders do, and adds the registration to the end of their execution."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _REGISTRATIONS:
            return None
        specs = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in specs if found is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _ready.add(fullname)
            register_loaded_classes()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
