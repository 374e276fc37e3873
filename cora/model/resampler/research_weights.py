"""Weights trained with the research code: which names differ from ours.

`bimamba`, `mlp`, `spatial_pool`, `masked_drop` and `identity` have the same names and shapes. Reading the file is the
business of the caller; here are tensors by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from cora.errors import CheckpointError
from cora.model.resampler.module import ResamplerModule

__all__ = ["load_research_weights"]

# Where the resampler is in a whole model's state.
PREFIX = "model.resampler.resampler."

RENAMED: dict[str, list[tuple[str, str]]] = {
    "perceiver": [
        (r"^perceiver\.layers\.(\d+)\.0\.", r"layers.\1.attention."),
        (r"^perceiver\.layers\.(\d+)\.1\.", r"layers.\1.feed_forward."),
        (r"^perceiver\.", ""),
    ],
    "c_abstractor": [
        (r"\.norm\.norm\.", ".norm."),
        (r"\.pw1\.", ".expand."),
        (r"\.pw2\.", ".contract."),
        (r"\.se\.fc\.0\.", ".se.squeeze."),
        (r"\.se\.fc\.2\.", ".se.excite."),
    ],
}


def load_research_weights(module: ResamplerModule, state: Mapping[str, Tensor]) -> None:
    """Load the weights of the research code's resampler of the same kind and options; every one must fit.

    Args:
        module: Takes the weights.
        state: Tensors by the names of the research code: of a whole model, or of its resampler alone.

    Raises:
        CheckpointError: There are weights too many or too few, or of another shape, or the kind is ``qformer``: there a
            query saw only those before it, so the weights mean something else here.
    """
    if module.kind == "qformer":
        raise CheckpointError("weights of the research code's 'qformer' were trained with causal queries; ours are not")
    own = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)} or state
    target = module.resampler.state_dict()
    renamed = {}
    for name, value in own.items():
        ours = _renamed(module.kind, name)
        # A convolution of one by one is a linear layer.
        is_pointwise = value.ndim == 4 and ours in target and target[ours].ndim == 2
        renamed[ours] = value.flatten(1) if is_pointwise else value
    if different := sorted(renamed.keys() ^ target.keys()):
        raise CheckpointError(f"these are no weights of this '{module.kind}' resampler, first: {different[0]}")
    for name, value in renamed.items():
        if value.shape != target[name].shape:
            raise CheckpointError(f"{name} of '{module.kind}' is {list(target[name].shape)}, got {list(value.shape)}")
    module.resampler.load_state_dict(renamed)


def _renamed(kind: str, name: str) -> str:
    for pattern, replacement in RENAMED.get(kind, []):
        name = re.sub(pattern, replacement, name)
    return name
