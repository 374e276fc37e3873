"""PanoramaDataModule: the loaders of one training stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from cora.data.augmentation import YawAugmentation
from cora.data.dataset import Mode, PanoramaDataset
from cora.data.feature_cache import FeatureCache
from cora.data.sampler import LengthGroupedSampler
from cora.data.samples import PanoramaSample, collate_loaded
from cora.data.view_memory import ViewMemory
from cora.data.workers import WorkerLoader
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
        accumulate: Batches per optimiser step.
        group_by_length: Whether the samples of a step are of similar length.
        seed: Of the order of training samples.
        num_replicas: How many processes will train together.

    Attributes:
        sampler: The order of training samples and the place in it.
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
        accumulate: int = 1,
        group_by_length: bool = True,
        seed: int = 0,
        num_replicas: int = 1,
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
        self.sampler = LengthGroupedSampler(
            self.train_dataset.lengths if group_by_length else None,
            len(self.train_dataset),
            batch_size=batch_size,
            accumulate=accumulate,
            seed=seed,
            num_replicas=num_replicas,
        )
        self._collate = partial(
            collate_loaded, image_token_id=processor.image_token_id, pad_token_id=int(processor.tokenizer.pad_token_id)
        )

    def set_batch_size(self, batch_size: int) -> None:
        """Make batches of another size from now on."""
        self.batch_size = batch_size
        self.sampler.set_batch_size(batch_size)

    def largest_batch(self, batch_size: int) -> Batch:
        """Return a training batch of the longest samples, of different panoramas as far as there are any."""
        images = self.train_dataset.sample_images
        lengths = self.train_dataset.lengths or [0] * len(images)
        order = sorted(range(len(images)), key=lambda index: -lengths[index])
        seen: Counter[Path] = Counter()
        turn = {}
        for index in order:
            turn[index] = seen[images[index]]
            seen[images[index]] += 1
        chosen = sorted(order, key=turn.__getitem__)[:batch_size]  # stable: the longest of each turn first
        return self._collate(self.train_dataset.__getitems__(chosen))

    @property
    def datasets(self) -> list[PanoramaDataset]:
        """The data sets there are."""
        return [data for data in (self.train_dataset, self.val_dataset) if data is not None]

    def use_features(self, features: FeatureCache | None) -> None:
        """Let loaders made from now on take frozen vision features from a cache where it has them."""
        for dataset in self.datasets:
            dataset.loader.features = features

    def remember_views(self, max_bytes: int) -> None:
        """Keep up to so many bytes of views in memory until `teardown`; loading processes would each keep their own."""
        memory = ViewMemory(max_bytes)
        for dataset in self.datasets:
            dataset.loader.memory = memory

    def teardown(self, stage: str) -> None:
        """Forget the views: Lightning says that a stage has ended."""
        for dataset in self.datasets:
            dataset.loader.memory = None

    def set_epoch(self, epoch: int) -> None:
        """Let the training data be drawn and augmented as in another epoch."""
        self.sampler.set_epoch(epoch)
        if self.train_dataset.yaw_augmentation is not None:
            self.train_dataset.yaw_augmentation.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the training data, which goes into checkpoints."""
        return self.sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the place a checkpoint was written at.

        Raises:
            CheckpointError: There are other samples now, or another number of them per step.
        """
        self.sampler.load_state_dict(state_dict)
        self.set_epoch(self.sampler.epoch)

    def _loader(self, dataset: PanoramaDataset, sampler: LengthGroupedSampler | None) -> DataLoader[PanoramaSample]:
        return WorkerLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self._collate,
            # Its own, so that making a loader does not move the random numbers of training.
            generator=torch.Generator().manual_seed(0),
        )

    def train_dataloader(self) -> DataLoader[PanoramaSample]:
        """Return the batches of the training tables that this process still has to train on in this epoch."""
        if self.trainer is not None:
            # Only Lightning knows which of the processes this is.
            self.sampler.rank = self.trainer.global_rank
        return self._loader(self.train_dataset, self.sampler)

    def val_dataloader(self) -> DataLoader[PanoramaSample] | list[DataLoader[PanoramaSample]]:
        """Return batches of the validation tables, or nothing."""
        return [] if self.val_dataset is None else self._loader(self.val_dataset, None)
