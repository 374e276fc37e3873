"""Crop strategies: which views are taken of a panorama. Each is one file and one line in this registry.

A strategy is a function of `CropOptions` that returns `ViewSpec` with angles only, whatever the panorama's size. A view
with `is_global` comes first; a `ring` is written only where views close the circle in equal steps.
"""

from __future__ import annotations

from collections.abc import Callable

from cora.processors.strategies.options import CropOptions
from cora.registry import Registry
from cora.types import ViewSpec

__all__ = ["STRATEGIES", "CropOptions", "CropStrategy"]

CropStrategy = Callable[[CropOptions], list[ViewSpec]]

STRATEGIES: Registry[CropStrategy] = Registry("crop strategy")
STRATEGIES.add("sliding_window", "cora.processors.strategies.sliding_window:sliding_window")
STRATEGIES.add("e2p", "cora.processors.strategies.e2p:e2p")
STRATEGIES.add("cubemap", "cora.processors.strategies.cubemap:cubemap")
STRATEGIES.add("anyres", "cora.processors.strategies.anyres:anyres")
STRATEGIES.add("anyres_max", "cora.processors.strategies.anyres_max:anyres_max")
STRATEGIES.add("anyres_e2p", "cora.processors.strategies.anyres_e2p:anyres_e2p")
STRATEGIES.add("resize", "cora.processors.strategies.resize:resize")
