"""vLLM plug-in: vLLM finds `register` through the entry point ``vllm.general_plugins`` and can then run exports."""

from __future__ import annotations

import cora  # noqa: F401  # transformers' Auto classes know CORA after this

__all__ = ["register"]

ARCHITECTURE = "PanoramaVLM"


def register() -> None:
    """Tell vLLM where the model class is; vLLM calls this in every one of its processes, more than once.

    The class is named, not imported: most of those processes never build a model.
    """
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "cora.vllm_plugin.model:PanoramaVLMForVLLM")
