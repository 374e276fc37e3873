"""PanoramaDataModule: the loaders of one training stage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from cora.data.dataset import FeatureStore, Mode, PanoramaDataset
from cora.data.samples import PanoramaSample, collate
from cora.processors.processor import PanoramaProcessor

__all__ = ["PanoramaDataModule"]

Tables = str | Path | Sequence[str | Path]
Batch = dict[str, Tensor]


class PanoramaDataModule(LightningDataModule):
    """Training and validation loaders over tables.

    Args:
        train_csv: Training table or tables.
        val_csv: Validation table or tables; None or empty leaves validation out.
        processor: The processor of the model.
        mode: See `PanoramaDataset`; so are `image_root`, `pack_questions`, `max_text_length` and `features`.
        batch_size: Samples per batch; a packed panorama is one sample.
        num_workers: Loading processes; 0 loads in the training process.
    """

    def __init__(
        self,
        train_csv: Tables,
        val_csv: Tables | None,
        processor: PanoramaProcessor,
        *,
        mode: Mode = "answers",
        image_root: str | Path | None = None,
        pack_questions: bool = False,
        max_text_length: int | None = None,
        batch_size: int = 1,
        num_workers: int = 0,
        features: FeatureStore | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers
        build = partial(
            PanoramaDataset,
            processor=processor,
            mode=mode,
            image_root=image_root,
            pack_questions=pack_questions,
            max_text_length=max_text_length,
            features=features,
        )
        # Tables are read here, not in `setup`: a wrong row should stop a run before any model is built.
        self.train_dataset = build(train_csv)
        self.val_dataset = build(val_csv) if val_csv else None
        self._collate = partial(
            collate, image_token_id=processor.image_token_id, pad_token_id=int(processor.tokenizer.pad_token_id)
        )

    @property
    def datasets(self) -> list[PanoramaDataset]:
        """The data sets there are."""
        return [data for data in (self.train_dataset, self.val_dataset) if data is not None]

    def _loader(self, dataset: PanoramaDataset, *, shuffle: bool) -> DataLoader[PanoramaSample]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            collate_fn=self._collate,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader[PanoramaSample]:
        """Return shuffled batches of the training tables."""
        return self._loader(self.train_dataset, shuffle=True)

    def val_dataloader(self) -> DataLoader[PanoramaSample] | list[DataLoader[PanoramaSample]]:
        """Return batches of the validation tables, or nothing."""
        return [] if self.val_dataset is None else self._loader(self.val_dataset, shuffle=False)
