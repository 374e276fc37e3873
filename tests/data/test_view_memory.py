from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cora.data.datamodule import PanoramaDataModule
from cora.data.feature_cache import FeatureCache
from cora.data.view_memory import ViewMemory
from cora.processors.processor import PanoramaProcessor


@pytest.fixture
def module(table: Path, processor: PanoramaProcessor) -> PanoramaDataModule:
    return PanoramaDataModule(table, table, processor, batch_size=2)


def test_what_came_first_stays(tmp_path: Path) -> None:
    memory = ViewMemory(100)
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_text(file.name)
        memory.keep(file, torch.full((10,), ord(file.name), dtype=torch.float32))
    kept = [memory.get(file) for file in files]
    assert [None if views is None else int(views[0]) for views in kept] == [ord("a"), ord("b"), None]
    assert memory.num_bytes == 80


def test_a_file_that_has_changed_is_not_known(tmp_path: Path) -> None:
    memory, file = ViewMemory(100), tmp_path / "a"
    file.write_text("first")
    memory.keep(file, torch.zeros(20))
    file.write_text("second time")
    assert memory.get(file) is None
    memory.keep(file, torch.ones(25))
    assert torch.equal(memory.get(file), torch.ones(25))
    assert memory.num_bytes == 100


def test_a_second_epoch_decodes_nothing_and_gives_the_same(
    module: PanoramaDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = module.train_dataset.loader
    without = [batch["pixel_values"] for batch in module.train_dataloader()]
    module.remember_views(10**9)
    first = [batch["pixel_values"] for batch in module.train_dataloader()]
    with monkeypatch.context() as patch:
        patch.delattr(type(loader.processor), "load")
        again = [batch["pixel_values"] for batch in module.train_dataloader()]
    for batches in (first, again):
        assert all(torch.equal(*pair) for pair in zip(batches, without, strict=True))
    module.teardown("fit")
    with monkeypatch.context() as patch:
        patch.delattr(type(loader.processor), "load")
        with pytest.raises(AttributeError):
            list(module.train_dataloader())


def test_turned_panoramas_and_those_with_features_are_not_kept(
    module: PanoramaDataModule, table: Path, tmp_path: Path
) -> None:
    module.remember_views(10**9)
    loader, image = module.train_dataset.loader, module.train_dataset.images[0]
    assert loader.memory is not None
    loader.load([(image, 0.25)])
    loader.features = FeatureCache(tmp_path, "model", max_bytes=10**6)
    loader.load([(image, None)])
    assert loader.memory.num_bytes == 0
    loader.features = FeatureCache(tmp_path, "model", max_bytes=10**6, images=[])
    loader.load([(image, None)])
    assert loader.memory.num_bytes > 0
