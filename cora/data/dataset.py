"""PanoramaDataset: rows of tables as training samples, cut and tokenised by the same processor that serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from torch.utils.data import Dataset

from cora.data.augmentation import YawAugmentation
from cora.data.panoramas import PanoramaLoader
from cora.data.samples import Conversation, PanoramaSample
from cora.data.skipped import SkippedPanorama
from cora.data.table import Row, read_rows
from cora.errors import DataError, ImageError
from cora.processors.processor import PanoramaProcessor

__all__ = ["PanoramaDataset"]

Mode = Literal["answers", "views"]
Tokenise = Callable[[str, str], tuple[list[int], list[int]]]
_REMEMBERED_TEXTS = 65_536


class PanoramaDataset(Dataset[PanoramaSample]):
    """Samples of one or several tables; a row with several references gives a conversation for each.

    Args:
        tables: CSV, JSON lines or Parquet files; all of them are used.
        processor: Cuts panoramas and tokenises conversations.
        mode: ``answers`` gives questions with answers, ``views`` only the panoramas, each once.
        image_root: Directory of relative image paths; each table's own directory when None.
        pack_questions: Whether all questions of a panorama form one sample.
        max_text_length: Most text tokens of a conversation, the vision tokens not counted; None sets no limit.
        yaw_augmentation: Turns the panoramas of rows that are marked ``yaw_equivariant``; in mode ``views``, of all.
            Rows of one panorama that differ in this form samples of their own.

    Attributes:
        loader: Loads the panoramas; its `features` may be set.

    Raises:
        DataError: A table is wrong, a conversation is too long, there is nothing to train on, or a row does not say
            whether its panorama may be turned.
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
        yaw_augmentation: YawAugmentation | None = None,
    ) -> None:
        paths = [tables] if isinstance(tables, (str, Path)) else list(tables)
        self.processor = processor
        self.mode = mode
        self.max_text_length = max_text_length
        self.yaw_augmentation = yaw_augmentation
        self.loader = PanoramaLoader(processor.image_processor)
        located = [
            (Path(path), replace(row, references=(reference,)))
            for path in paths
            for row in read_rows(path, image_root=image_root)
            for reference in row.references
        ]
        if not located:
            raise DataError("no table to train on: set data.csv_train")
        _check_images(located)
        if yaw_augmentation is not None and mode == "answers" and not yaw_augmentation.forced:
            _check_yaw_marks(located)
        self._samples = self._group(located, share_panorama=pack_questions or mode == "views")
        self._numbers = {image: number for number, image in enumerate(self.images)}
        if mode == "answers":
            # Many rows ask the same and get the same answer; wording and tokenising one takes half a millisecond.
            tokenise = lru_cache(maxsize=_REMEMBERED_TEXTS)(processor.encode_training)
            self._encoded = [tuple(self._encode(tokenise, path, row) for path, row in group) for group in self._samples]

    def _group(self, located: list[tuple[Path, Row]], *, share_panorama: bool) -> list[list[tuple[Path, Row]]]:
        if not share_panorama:
            return [[item] for item in located]
        groups: dict[tuple[Path, bool], list[tuple[Path, Row]]] = {}
        for path, row in located:
            groups.setdefault((row.image, self._turns(row)), []).append((path, row))
        return list(groups.values())

    def _turns(self, row: Row) -> bool:
        """Return whether the panorama of a row is turned; the mark matters only where there is an answer."""
        if self.yaw_augmentation is None or self.mode == "views":
            return self.yaw_augmentation is not None
        return row.is_yaw_equivariant is not False

    @property
    def images(self) -> list[Path]:
        """The distinct panoramas, in order of first appearance."""
        return list(dict.fromkeys(self.sample_images))

    @property
    def sample_images(self) -> list[Path]:
        """The panorama of each sample."""
        return [group[0][1].image for group in self._samples]

    @property
    def lengths(self) -> list[int] | None:
        """Tokens of each sample, the shared vision tokens counted once; None where there is no text."""
        if self.mode == "views":
            return None
        shared = self.processor.num_vision_tokens
        return [shared + sum(len(item.input_ids) - shared for item in sample) for sample in self._encoded]

    def _encode(self, tokenise: Tokenise, path: Path, row: Row) -> Conversation:
        input_ids, labels = tokenise(row.query, row.references[0])
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
        (sample,) = self.__getitems__([index])
        if isinstance(sample, SkippedPanorama):
            raise ImageError(sample.reason)
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[PanoramaSample | SkippedPanorama]:
        """Return the samples of a batch, in order; those about the same panorama share what was loaded of it once.

        In the place of a sample whose panorama cannot be used is the reason.
        """
        rows = [self._samples[index][0][1] for index in indices]
        requests = [(row.image, self._draw_turn(row)) for row in rows]
        loaded = self.loader.load(requests)
        samples: list[PanoramaSample | SkippedPanorama] = []
        for index, request in zip(indices, requests, strict=True):
            panorama = loaded[request]
            if isinstance(panorama, SkippedPanorama):
                samples.append(panorama)
                continue
            conversations = self._encoded[index] if self.mode == "answers" else ()
            samples.append(
                PanoramaSample(
                    request[0],
                    panorama.views,
                    panorama.has_features,
                    conversations,
                    panorama.feature_key,
                    panorama.was_damaged,
                )
            )
        return samples

    def _draw_turn(self, row: Row) -> float | None:
        if self.yaw_augmentation is None or not self._turns(row):
            return None
        return self.yaw_augmentation.draw(self._numbers[row.image])


def _check_images(located: Iterable[tuple[Path, Row]]) -> None:
    """Refuse a missing panorama now: training would come to it hours later."""
    checked: set[Path] = set()
    for path, row in located:
        if row.image not in checked and not row.image.is_file():
            raise ImageError(f"{path}, line {row.line}: {row.image}: no such file")
        checked.add(row.image)


def _check_yaw_marks(located: Iterable[tuple[Path, Row]]) -> None:
    """Refuse rows that do not say whether their answer depends on the direction the camera faces."""
    for path, row in located:
        if row.is_yaw_equivariant is None:
            raise DataError(
                f"{path}, line {row.line}: column 'yaw_equivariant' is missing or empty, so nobody knows whether the "
                "answer stays right when the panorama is turned: mark each row true or false, set "
                "data.yaw_augmentation to 'force' (unmarked rows are turned) or to false"
            )
