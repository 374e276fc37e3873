"""PanoramaDataModule: the loaders of one training stage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from cora.data.augmentation import YawAugmentation
from cora.data.dataset import Mode, PanoramaDataset
from cora.data.feature_cache import FeatureCache
from cora.data.samples import PanoramaSample, collate_loaded
from cora.processors.processor import PanoramaProcessor

__all__ = ["PanoramaDataModule"]

Tables = str | Path | Sequence[str | Path]
Batch = dict[str, Any]


class PanoramaDataModule(LightningDataModule):
    """Training and validation loaders over tables.

    Args:
        train_csv: Training table or tables.
        val_csv: Validation table or tables; None or empty leaves validation out.
        processor: The processor of the model.
        mode: See `PanoramaDataset`; so are `image_root`, `pack_questions` and `max_text_length`.
        batch_size: Samples per batch; a packed panorama is one sample.
        num_workers: Loading processes, of one thread each; 0 loads in the training process.
        yaw_augmentation: Turns training panoramas, see `PanoramaDataset`; validation is never augmented.
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
        yaw_augmentation: YawAugmentation | None = None,
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
        )
        # Tables are read here, not in `setup`: a wrong row should stop a run before any model is built.
        self.train_dataset = build(train_csv, yaw_augmentation=yaw_augmentation)
        self.val_dataset = build(val_csv) if val_csv else None
        self._collate = partial(
            collate_loaded, image_token_id=processor.image_token_id, pad_token_id=int(processor.tokenizer.pad_token_id)
        )

    @property
    def datasets(self) -> list[PanoramaDataset]:
        """The data sets there are."""
        return [data for data in (self.train_dataset, self.val_dataset) if data is not None]

    def use_features(self, features: FeatureCache | None) -> None:
        """Let loaders made from now on take frozen vision features from a cache where it has them."""
        for dataset in self.datasets:
            dataset.loader.features = features

    def set_epoch(self, epoch: int) -> None:
        """Let the training data be augmented as in another epoch."""
        if self.train_dataset.yaw_augmentation is not None:
            self.train_dataset.yaw_augmentation.set_epoch(epoch)

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
        # A resumed run loads its first batches before it is told that an epoch begins.
        if self.trainer is not None:
            self.set_epoch(self.trainer.current_epoch)
        return self._loader(self.train_dataset, shuffle=True)

    def val_dataloader(self) -> DataLoader[PanoramaSample] | list[DataLoader[PanoramaSample]]:
        """Return batches of the validation tables, or nothing."""
        return [] if self.val_dataset is None else self._loader(self.val_dataset, shuffle=False)
