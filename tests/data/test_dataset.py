"""PanoramaDataset and PanoramaDataModule: what a table becomes, and what they refuse before training starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import make_model, make_panorama

from cora.data.datamodule import PanoramaDataModule
from cora.data.dataset import PanoramaDataset
from cora.errors import DataError, ImageError
from cora.processors.processor import PanoramaProcessor
from cora.processors.text import IGNORE_INDEX


@pytest.fixture(scope="module")
def processor() -> PanoramaProcessor:
    return make_model()[1]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for seed in range(3):
        make_panorama(seed).save(tmp_path / f"{seed}.png")
    rows = ["0.png,What is ahead?,a red cone", "0.png,sky,blue", "1.png,sky,grey and low", "2.png,sky,red"]
    path = tmp_path / "train.csv"
    path.write_text("\n".join(["url,query,annotation", *rows]) + "\n")
    return path


def test_one_sample_per_row_or_per_panorama(table: Path, processor: PanoramaProcessor) -> None:
    assert len(PanoramaDataset(table, processor)) == 4
    packed = PanoramaDataset(table, processor, pack_questions=True)
    assert [len(packed[index].conversations) for index in range(len(packed))] == [2, 1, 1]
    views = PanoramaDataset(table, processor, mode="views")
    assert [views[index].conversations for index in range(len(views))] == [(), (), ()]
    assert [image.name for image in views.images] == ["0.png", "1.png", "2.png"]


def test_several_tables_are_all_used(table: Path, processor: PanoramaProcessor) -> None:
    other = table.with_name("more.csv")
    other.write_text("image,prompt,response\n1.png,What is behind?,nothing\n")
    assert len(PanoramaDataset([table, other], processor)) == 5


def test_every_reference_is_a_conversation(table: Path, processor: PanoramaProcessor) -> None:
    rows = table.with_name("rows.jsonl")
    rows.write_text('{"image": "0.png", "query": "sky", "response": ["blue", "clear"]}\n')
    data = PanoramaDataset(rows, processor, pack_questions=True)
    assert len(data[0].conversations) == 2


def test_only_the_answer_is_learnt(table: Path, processor: PanoramaProcessor) -> None:
    (conversation,) = PanoramaDataset(table, processor)[0].conversations
    learnt = [token for token in conversation.labels if token != IGNORE_INDEX]
    assert processor.tokenizer.decode(learnt).strip().startswith("a red cone")
    assert processor.tokenizer.eos_token in processor.tokenizer.decode(learnt)
    assert conversation.input_ids.count(processor.image_token_id) == processor.num_vision_tokens


def test_views_are_those_of_the_processor(table: Path, processor: PanoramaProcessor) -> None:
    sample = PanoramaDataset(table, processor)[2]
    torch.testing.assert_close(sample.views, processor.image_processor(make_panorama(1))["pixel_values"][0])


def test_known_features_replace_views(table: Path, processor: PanoramaProcessor) -> None:
    features = {table.with_name("1.png"): torch.ones(2, 3, 4)}
    data = PanoramaDataset(table, processor, features=features)
    assert not data[0].has_features
    assert data[2].has_features
    assert data[2].views.shape == (2, 3, 4)


def test_a_missing_panorama_is_refused_before_training(table: Path, processor: PanoramaProcessor) -> None:
    table.with_name("1.png").unlink()
    with pytest.raises(ImageError, match=r"train\.csv, line 4: .*1\.png: no such file"):
        PanoramaDataset(table, processor)


def test_a_conversation_is_never_cut(table: Path, processor: PanoramaProcessor) -> None:
    with pytest.raises(DataError, match=r"train\.csv, line 2: question and answer take \d+ tokens, more than .* 5"):
        PanoramaDataset(table, processor, max_text_length=5)


def test_no_table(processor: PanoramaProcessor) -> None:
    with pytest.raises(DataError, match=r"set data\.csv_train"):
        PanoramaDataset([], processor)


def test_the_module_shuffles_training_and_nothing_else(table: Path, processor: PanoramaProcessor) -> None:
    module = PanoramaDataModule(table, table, processor, batch_size=3)
    validation = module.val_dataloader()
    assert not isinstance(validation, list)
    sizes = [len(batch["input_ids"]) for batch in validation]
    assert sizes == [3, 1]
    torch.manual_seed(1)
    first = [batch["input_ids"] for batch in module.train_dataloader()]
    torch.manual_seed(1)
    again = [batch["input_ids"] for batch in module.train_dataloader()]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    orders = set()
    for seed in range(8):
        torch.manual_seed(seed)
        orders.add(tuple(next(iter(module.train_dataloader()))["input_ids"].flatten().tolist()))
    assert len(orders) > 1
    assert PanoramaDataModule(table, None, processor).val_dataloader() == []
    assert len(PanoramaDataModule(table, None, processor).datasets) == 1


def test_worker_processes_load_the_same(table: Path, processor: PanoramaProcessor) -> None:
    batches = []
    for num_workers in (0, 1):
        module = PanoramaDataModule(table, table, processor, batch_size=4, num_workers=num_workers)
        (batch,) = list(module.val_dataloader())
        batches.append(batch)
    for name in batches[0]:
        assert torch.equal(batches[0][name], batches[1][name]), name
