"""PanoramaDataset: rows of tables as training samples, cut and tokenised by the same processor that serves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from cora.data.samples import Conversation, PanoramaSample
from cora.data.table import Row, read_rows
from cora.errors import DataError, ImageError
from cora.processors.processor import PanoramaProcessor

__all__ = ["FeatureStore", "PanoramaDataset"]

Mode = Literal["answers", "views"]
_REMEMBERED_TEXTS = 65_536


class FeatureStore(Protocol):
    """Frozen vision features by panorama."""

    def __contains__(self, image: Path) -> bool: ...

    def __getitem__(self, image: Path) -> Tensor: ...


class PanoramaDataset(Dataset[PanoramaSample]):
    """Samples of one or several tables; a row with several references gives a conversation for each.

    Args:
        tables: CSV, JSON lines or Parquet files; all of them are used.
        processor: Cuts panoramas and tokenises conversations.
        mode: ``answers`` gives questions with answers, ``views`` only the panoramas, each once.
        image_root: Directory of relative image paths; each table's own directory when None.
        pack_questions: Whether all questions of a panorama form one sample.
        max_text_length: Most text tokens of a conversation, the vision tokens not counted; None sets no limit.
        features: Frozen vision features to use instead of views, where they hold the panorama.

    Raises:
        DataError: A table is wrong, a conversation is too long, or there is nothing to train on.
        ImageError: A panorama is missing.
    """

    def __init__(
        self,
        tables: str | Path | Sequence[str | Path],
        processor: PanoramaProcessor,
        *,
        mode: Mode = "answers",
        image_root: str | Path | None = None,
        pack_questions: bool = False,
        max_text_length: int | None = None,
        features: FeatureStore | None = None,
    ) -> None:
        paths = [tables] if isinstance(tables, (str, Path)) else list(tables)
        self.processor = processor
        self.mode = mode
        self.max_text_length = max_text_length
        self.features = features
        located = [
            (Path(path), replace(row, references=(reference,)))
            for path in paths
            for row in read_rows(path, image_root=image_root)
            for reference in row.references
        ]
        if not located:
            raise DataError("no table to train on: set data.csv_train")
        _check_images(located)
        self._samples = self._group(located, share_panorama=pack_questions or mode == "views")
        if mode == "answers":
            # Many rows ask the same and get the same answer; wording and tokenising one takes half a millisecond.
            self._tokenise = lru_cache(maxsize=_REMEMBERED_TEXTS)(processor.encode_training)
            self._encoded = [tuple(self._encode(path, row) for path, row in group) for group in self._samples]

    @staticmethod
    def _group(located: list[tuple[Path, Row]], *, share_panorama: bool) -> list[list[tuple[Path, Row]]]:
        if not share_panorama:
            return [[item] for item in located]
        groups: dict[Path, list[tuple[Path, Row]]] = {}
        for path, row in located:
            groups.setdefault(row.image, []).append((path, row))
        return list(groups.values())

    @property
    def images(self) -> list[Path]:
        """The distinct panoramas, in order of first appearance."""
        return list(dict.fromkeys(group[0][1].image for group in self._samples))

    def _encode(self, path: Path, row: Row) -> Conversation:
        input_ids, labels = self._tokenise(row.query, row.references[0])
        text_length = len(input_ids) - self.processor.num_vision_tokens
        if self.max_text_length is not None and text_length > self.max_text_length:
            raise DataError(
                f"{path}, line {row.line}: question and answer take {text_length} tokens, more than max_text_length "
                f"{self.max_text_length}; a conversation is never cut"
            )
        return Conversation(input_ids, labels)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> PanoramaSample:
        image = self._samples[index][0][1].image
        conversations = self._encoded[index] if self.mode == "answers" else ()
        if self.features is not None and image in self.features:
            return PanoramaSample(image, self.features[image], True, conversations)
        views = self.processor.image_processor(image)["pixel_values"][0]
        return PanoramaSample(image, views, False, conversations)


def _check_images(located: Iterable[tuple[Path, Row]]) -> None:
    """Refuse a missing panorama now: training would come to it hours later."""
    checked: set[Path] = set()
    for path, row in located:
        if row.image not in checked and not row.image.is_file():
            raise ImageError(f"{path}, line {row.line}: {row.image}: no such file")
        checked.add(row.image)
