"""From table rows to training samples, and from samples to batches.

Several questions of one panorama can share one copy of its vision tokens: the panorama is the common prefix, every
question is a segment that sees the prefix and itself and counts its positions from the end of the prefix. Each
question is then computed exactly as if it stood alone.

Samples of a batch that are about the same panorama share its views too: they are in the batch once.

Shapes: B samples, P distinct panoramas, L sequence, V views, S patch tokens per view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cora.data.skipped import SkippedPanorama
from cora.errors import DataError
from cora.processors.text import IGNORE_INDEX

__all__ = ["Conversation", "LoadReport", "PackedConversations", "PanoramaSample", "collate", "collate_loaded", "pack"]

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
        views: Either normalised views float[V, 3, h, w], or frozen vision features float[V, S, D]. Samples that share
            the tensor share its place in a batch.
        has_features: Whether `views` are features.
        conversations: Empty for self-supervised stages.
        feature_key: Under which key features of `views` are to be kept; None keeps none.
        was_damaged: Whether features were kept, but damaged.
    """

    image: Path
    views: Tensor
    has_features: bool
    conversations: tuple[Conversation, ...]
    feature_key: str | None = None
    was_damaged: bool = False


class LoadReport(NamedTuple):
    """How the panoramas of a batch were loaded.

    Attributes:
        feature_keys: Under which key to keep the features of each of ``pixel_values``; None keeps none.
        num_hits: Panoramas whose features were known.
        num_damaged: Panoramas whose features were kept, but damaged.
        skipped: What is missing from the batch because its panorama cannot be used.
    """

    feature_keys: tuple[str | None, ...]
    num_hits: int
    num_damaged: int
    skipped: tuple[SkippedPanorama, ...]


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
    small = segments.to(torch.int16)  # a quarter of the memory to compare; no sequence has so many questions
    mask = small[:, :, None] == small[:, None, :]
    mask |= (small == _PREFIX)[:, None, :]
    return mask.tril_()[:, None]


def collate_loaded(
    samples: Sequence[PanoramaSample | SkippedPanorama], *, image_token_id: int, pad_token_id: int
) -> dict[str, Any]:
    """Return `collate` of what could be loaded, and as ``report`` a `LoadReport`, possibly nothing else."""
    usable = [sample for sample in samples if isinstance(sample, PanoramaSample)]
    skipped = tuple(sample for sample in samples if isinstance(sample, SkippedPanorama))
    known, others = _by_features(_distinct(usable))
    keys = tuple(sample.feature_key for sample in others)
    report = LoadReport(keys, len(known), sum(sample.was_damaged for sample in others), skipped)
    tensors = collate(usable, image_token_id=image_token_id, pad_token_id=pad_token_id) if usable else {}
    return {**tensors, "report": report}


def collate(samples: Sequence[PanoramaSample], *, image_token_id: int, pad_token_id: int) -> dict[str, Tensor]:
    """Return the model's input for samples: views, features or both, and, when there are conversations, text.

    Sequences are padded on the right; with several conversations in any sample the mask is bool[B, 1, L, L],
    otherwise int64[B, L]. Where not every sample has a panorama of its own, ``panorama`` int64[B] says which of the P
    each is about, counted as they first appear. Where there are both features and views, ``panorama_rows`` int64[P]
    says which row of the two, one behind the other, each of the P is: what is known must not change their order, and
    with it which of them dropout hits.
    """
    distinct = _distinct(samples)
    known, others = _by_features(distinct)
    batch = {
        name: torch.stack([sample.views for sample in rows])
        for name, rows in (("vision_features", known), ("pixel_values", others))
        if rows
    }
    if known and others:
        rows = {id(sample.views): row for row, sample in enumerate(known + others)}
        batch["panorama_rows"] = torch.tensor([rows[id(sample.views)] for sample in distinct])
    if not samples[0].conversations:
        return batch
    places = {id(sample.views): place for place, sample in enumerate(distinct)}
    if len(places) < len(samples):
        batch["panorama"] = torch.tensor([places[id(sample.views)] for sample in samples])
    return batch | _collate_text(samples, image_token_id, pad_token_id)


def _distinct(samples: Sequence[PanoramaSample]) -> list[PanoramaSample]:
    """Return a sample of each panorama, as they first appear."""
    return list({id(sample.views): sample for sample in samples}.values())


def _by_features(samples: Sequence[PanoramaSample]) -> tuple[list[PanoramaSample], list[PanoramaSample]]:
    """Return the samples with features and those with views."""
    return [item for item in samples if item.has_features], [item for item in samples if not item.has_features]


def _collate_text(samples: Sequence[PanoramaSample], image_token_id: int, pad_token_id: int) -> dict[str, Tensor]:
    packed = [pack(sample.conversations, image_token_id, name=str(sample.image)) for sample in samples]
    segments = _pad([row.segments for row in packed], _PADDING)
    is_packed = any(len(sample.conversations) > 1 for sample in samples)
    return {
        "input_ids": _pad([row.input_ids for row in packed], pad_token_id),
        "labels": _pad([row.labels for row in packed], IGNORE_INDEX),
        "position_ids": _pad([row.positions for row in packed], 0),
        "attention_mask": _segment_mask(segments) if is_packed else (segments != _PADDING).long(),
    }
