"""PanoramaDataset and PanoramaDataModule: what a table becomes, and what they refuse before training starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import make_panorama

from cora.data.augmentation import YawAugmentation
from cora.data.datamodule import PanoramaDataModule
from cora.data.dataset import PanoramaDataset
from cora.data.feature_cache import FeatureCache
from cora.errors import DataError, ImageError
from cora.processors.processor import PanoramaProcessor
from cora.processors.text import IGNORE_INDEX


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


def test_questions_of_a_batch_share_what_was_loaded_once(table: Path, processor: PanoramaProcessor) -> None:
    samples = PanoramaDataset(table, processor).__getitems__([1, 2, 0])
    assert samples[0].views is samples[2].views  # type: ignore[union-attr]
    (batch, *_) = PanoramaDataModule(table, table, processor, batch_size=4).val_dataloader()
    assert len(batch["pixel_values"]) == 3
    assert batch["panorama"].tolist() == [0, 0, 1, 2]


def test_known_features_replace_views(table: Path, processor: PanoramaProcessor, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "features", "model", max_bytes=10**6)
    image = table.with_name("1.png")
    cache.store([cache.key(image, image.read_bytes())], torch.ones(1, 2, 3, 4))
    module = PanoramaDataModule(table, table, processor, batch_size=4)
    module.use_features(cache)
    (batch,) = module.val_dataloader()
    assert batch["vision_features"].shape == (1, 2, 3, 4)
    assert len(batch["pixel_values"]) == 2
    assert batch["panorama"].tolist() == [0, 0, 1, 2]
    assert batch["panorama_rows"].tolist() == [1, 0, 2]
    report = batch["report"]
    assert (report.num_hits, report.num_damaged, len(report.feature_keys)) == (1, 0, 2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_panorama_is_left_out_and_nothing_else_moves(
    table: Path, processor: PanoramaProcessor, num_workers: int
) -> None:
    data = PanoramaDataset(table, processor)
    answers = [data[index].conversations[0].input_ids for index in range(4)]
    bad = table.with_name("1.png")
    bad.write_bytes(bad.read_bytes()[:60])
    module = PanoramaDataModule(table, table, processor, batch_size=2, num_workers=num_workers)
    first, second = module.val_dataloader()
    assert [len(batch["input_ids"]) for batch in (first, second)] == [2, 1]
    assert second["input_ids"][0].tolist() == answers[3]
    (skipped,) = second["report"].skipped
    assert skipped.image == str(bad)
    assert "1.png" in skipped.reason
    assert first["report"].skipped == ()


def test_a_file_that_is_away_for_a_moment_is_read_again(
    table: Path, processor: PanoramaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PanoramaDataset(table, processor)
    faults = [OSError(5, "Input/output error")] * 2
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        if faults:
            raise faults.pop()
        return read_bytes(path)

    monkeypatch.setattr("cora.data.panoramas._PAUSES", (0.0, 0.0))
    monkeypatch.setattr(Path, "read_bytes", read)
    assert len(data[0].views) == data.processor.image_processor.num_views
    faults.extend([OSError(5, "Input/output error")] * 3)
    with pytest.raises(ImageError, match=r"0\.png: cannot be read, tried 3 times: Input/output error"):
        data[0]


def marked(table: Path, marks: str) -> Path:
    rows = table.read_text().splitlines()
    cells = ["yaw_equivariant", *marks.split()]
    path = table.with_name("marked.csv")
    lines = [f"{row},{cell}" for row, cell in zip(rows, cells, strict=True)]
    path.write_text("\n".join(lines).replace("-", "") + "\n")
    return path


def test_only_panoramas_of_rows_marked_for_it_are_turned(table: Path, processor: PanoramaProcessor) -> None:
    augmentation = YawAugmentation(3)
    data = PanoramaDataset(marked(table, "true false no 1"), processor, yaw_augmentation=augmentation)
    plain = PanoramaDataset(table, processor)
    same = [torch.equal(data[index].views, plain[index].views) for index in range(4)]
    assert same == [False, True, True, False]
    number, image = 0, np.asarray(make_panorama(0))
    expected = processor.image_processor(np.roll(image, int(augmentation.draw(number) * image.shape[1]), axis=1))
    assert torch.equal(data[0].views, expected["pixel_values"][0])
    before = data[0].views
    augmentation.set_epoch(1)
    assert not torch.equal(data[0].views, before)
    augmentation.set_epoch(0)
    assert torch.equal(data[0].views, before)
    packed = PanoramaDataset(
        marked(table, "true false no 1"), processor, pack_questions=True, yaw_augmentation=augmentation
    )
    # The first panorama has a row of either kind.
    assert [len(packed[index].conversations) for index in range(len(packed))] == [1, 1, 1, 1]


def test_rows_without_a_mark_are_not_turned_unless_forced(table: Path, processor: PanoramaProcessor) -> None:
    augmentation = YawAugmentation(3)
    with pytest.raises(DataError, match=r"train\.csv, line 2: column 'yaw_equivariant' is missing or empty"):
        PanoramaDataset(table, processor, yaw_augmentation=augmentation)
    partly = marked(table, "true false - true")
    with pytest.raises(DataError, match=r"marked\.csv, line 4: column 'yaw_equivariant' is missing or empty"):
        PanoramaDataset(partly, processor, yaw_augmentation=augmentation)
    forced = PanoramaDataset(partly, processor, yaw_augmentation=YawAugmentation(3, forced=True))
    plain = PanoramaDataset(table, processor)
    same = [torch.equal(forced[index].views, plain[index].views) for index in range(4)]
    assert same == [False, True, False, False]
    with pytest.raises(DataError, match=r"line 3: column 'yaw_equivariant' is true or false or .*, got 'maybe'"):
        PanoramaDataset(marked(table, "true maybe true true"), processor)
    # There is no answer that a turn could make wrong.
    views = PanoramaDataset(table, processor, mode="views", yaw_augmentation=augmentation)
    assert not torch.equal(views[0].views, plain[0].views)


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
    first, again = ([batch["input_ids"] for batch in module.train_dataloader()] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    orders = set()
    for epoch in range(8):
        module.set_epoch(epoch)
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
    assert batches[0].pop("report") == batches[1].pop("report")
    for name in batches[0]:
        assert torch.equal(batches[0][name], batches[1][name]), name
