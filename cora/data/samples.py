"""From table rows to training samples, and from samples to batches.

Several questions of one panorama can share one copy of its vision tokens: the panorama is the common prefix, every
question is a segment that sees the prefix and itself and counts its positions from the end of the prefix. Each
question is then computed exactly as if it stood alone.

Shapes: B samples, L sequence, V views, S patch tokens per view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cora.errors import DataError
from cora.processors.text import IGNORE_INDEX

__all__ = ["Conversation", "PackedConversations", "PanoramaSample", "collate", "pack"]

_PREFIX = 0
_PADDING = -1


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids of a question with its answer, the placeholder expanded, and their labels (same length)."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class PanoramaSample:
    """A panorama with one or more conversations about it.

    Attributes:
        image: Where the panorama lies, for messages.
        views: Either normalised views float[V, 3, h, w], or frozen vision features float[V, S, D].
        has_features: Whether `views` are features.
        conversations: Empty for self-supervised stages.
    """

    image: Path
    views: Tensor
    has_features: bool
    conversations: tuple[Conversation, ...]


@dataclass(frozen=True, slots=True)
class PackedConversations:
    """Flat lists of one packed sample; `segments` holds 0 for the shared prefix and 1, 2, ... for the questions."""

    input_ids: list[int]
    labels: list[int]
    positions: list[int]
    segments: list[int]


def pack(conversations: Sequence[Conversation], image_token_id: int, *, name: str) -> PackedConversations:
    """Put conversations about one panorama behind one copy of what they share, up to the last vision token.

    Raises:
        DataError: The conversations differ before the panorama, so they have no common prefix.
    """
    first = conversations[0].input_ids
    length = len(first) - first[::-1].index(image_token_id)
    prefix = first[:length]
    packed = PackedConversations(list(prefix), [IGNORE_INDEX] * length, list(range(length)), [_PREFIX] * length)
    for number, conversation in enumerate(conversations, start=1):
        if conversation.input_ids[:length] != prefix:
            raise DataError(f"{name}: its questions differ before the panorama; they cannot share its tokens")
        rest = conversation.input_ids[length:]
        packed.input_ids.extend(rest)
        packed.labels.extend(conversation.labels[length:])
        packed.positions.extend(range(length, length + len(rest)))
        packed.segments.extend([number] * len(rest))
    return packed


def _pad(rows: Sequence[list[int]], value: int) -> Tensor:
    length = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def _segment_mask(segments: Tensor) -> Tensor:
    """Return bool[B, 1, L, L], true where a query (row) may look: earlier, and in its own segment or the prefix."""
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    prefix = (segments == _PREFIX)[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return ((same | prefix) & causal)[:, None]


def collate(samples: Sequence[PanoramaSample], *, image_token_id: int, pad_token_id: int) -> dict[str, Tensor]:
    """Return the model's input for samples: views or features, and, when there are conversations, text.

    Sequences are padded on the right; with several conversations in any sample the mask is bool[B, 1, L, L],
    otherwise int64[B, L].
    """
    name = "vision_features" if samples[0].has_features else "pixel_values"
    batch = {name: torch.stack([sample.views for sample in samples])}
    if not samples[0].conversations:
        return batch
    packed = [pack(sample.conversations, image_token_id, name=str(sample.image)) for sample in samples]
    batch["input_ids"] = _pad([row.input_ids for row in packed], pad_token_id)
    batch["labels"] = _pad([row.labels for row in packed], IGNORE_INDEX)
    batch["position_ids"] = _pad([row.positions for row in packed], 0)
    segments = _pad([row.segments for row in packed], _PADDING)
    if all(len(sample.conversations) == 1 for sample in samples):
        batch["attention_mask"] = (segments != _PADDING).long()
    else:
        batch["attention_mask"] = _segment_mask(segments)
    return batch
