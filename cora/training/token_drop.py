"""Leaving vision tokens out of a training sequence.

Shapes: B sequences of a panorama each, T its vision tokens, K kept ones, L sequence before, L' after, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["keep_vision_tokens"]


def keep_vision_tokens(
    batch: dict[str, Tensor], vision_tokens: Tensor, *, placeholders: Tensor, kept: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the text of a batch without the placeholders that are not kept, and the kept vision tokens.

    ``position_ids`` are taken along: what is kept has the position it has among all tokens.

    Args:
        batch: ``input_ids``, ``labels`` and ``position_ids`` int64[B, L], ``attention_mask`` [B, L] or [B, 1, L, L];
            anything else stays as it is.
        vision_tokens: float[B, T, D].
        placeholders: bool[B, L], T in each row.
        kept: int64[B, K], which of the T, ascending in each row.

    Returns:
        The batch with sequences of L' = L - T + K, and float[B, K, D].

    Raises:
        ValueError: A row has another number of placeholders than T.
    """
    num_rows, num_tokens, width = vision_tokens.shape
    if not bool((placeholders.sum(dim=1) == num_tokens).all()):
        raise ValueError(f"every row must have {num_tokens} placeholders, got {placeholders.sum(dim=1).tolist()}")
    kept = kept.to(placeholders.device)
    places = placeholders.nonzero()[:, 1].reshape(num_rows, num_tokens)
    stays = (~placeholders).scatter(1, places.gather(1, kept), True)
    columns = stays.nonzero()[:, 1].reshape(num_rows, -1)
    narrowed = dict(batch)
    for name in ("input_ids", "labels", "position_ids"):
        narrowed[name] = batch[name].gather(1, columns)
    mask = batch["attention_mask"]
    if mask.ndim == 2:
        narrowed["attention_mask"] = mask.gather(1, columns)
    else:
        rows = mask.gather(2, columns[:, None, :, None].expand(-1, 1, -1, mask.shape[3]))
        narrowed["attention_mask"] = rows.gather(3, columns[:, None, None, :].expand(-1, 1, columns.shape[1], -1))
    return narrowed, torch.gather(vision_tokens, 1, kept.to(vision_tokens.device)[..., None].expand(-1, -1, width))
