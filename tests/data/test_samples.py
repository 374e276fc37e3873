"""Packing several questions behind one panorama computes the same as asking them one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import make_model, make_panorama

from cora.data.samples import Conversation, PanoramaSample, collate, pack
from cora.errors import DataError
from cora.processors.text import IGNORE_INDEX

IMAGE = 9
NAME = Path("a.jpg")
PAIRS = (("What is ahead?", "a red cone"), ("Describe the scene in one sentence.", "blue"), ("sky", "a cube behind"))


def test_pack_shares_the_prefix_and_restarts_positions() -> None:
    conversations = [
        Conversation([1, IMAGE, IMAGE, 5, 6], [-100, -100, -100, -100, 6]),
        Conversation([1, IMAGE, IMAGE, 7, 8, 4], [-100, -100, -100, -100, 8, 4]),
    ]
    packed = pack(conversations, IMAGE, name="a.jpg")
    assert packed.input_ids == [1, IMAGE, IMAGE, 5, 6, 7, 8, 4]
    assert packed.positions == [0, 1, 2, 3, 4, 3, 4, 5]
    assert packed.segments == [0, 0, 0, 1, 1, 2, 2, 2]
    assert packed.labels == [-100, -100, -100, -100, 6, -100, 8, 4]


def test_pack_refuses_questions_before_the_panorama() -> None:
    conversations = [Conversation([1, IMAGE, 2], [-100] * 3), Conversation([3, IMAGE, 2], [-100] * 3)]
    with pytest.raises(DataError, match=r"a\.jpg: its questions differ before the panorama"):
        pack(conversations, IMAGE, name="a.jpg")


def test_collate_pads_on_the_right_and_hides_the_padding() -> None:
    views = torch.zeros(1, 3, 2, 2)
    short = PanoramaSample(NAME, views.clone(), False, (Conversation([1, IMAGE, 2], [-100, -100, 2]),))
    long = PanoramaSample(NAME, views, False, (Conversation([1, IMAGE, 2, 3], [-100, -100, 2, 3]),))
    batch = collate([short, long], image_token_id=IMAGE, pad_token_id=0)
    assert batch["pixel_values"].shape == (2, 1, 3, 2, 2)
    assert batch["input_ids"].tolist() == [[1, IMAGE, 2, 0], [1, IMAGE, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 2, IGNORE_INDEX], [-100, -100, 2, 3]]
    assert set(collate([PanoramaSample(NAME, views, True, ())], image_token_id=IMAGE, pad_token_id=0)) == {
        "vision_features"
    }


@pytest.mark.parametrize("family", ["qwen", "llama", "gemma"])
def test_packed_questions_get_the_logits_they_get_alone(family: str) -> None:
    model, processor = make_model(family)
    views = [processor.image_processor(make_panorama(seed))["pixel_values"][0] for seed in range(2)]
    encoded = [Conversation(*processor.encode_training(query, answer)) for query, answer in PAIRS]
    # Different numbers of questions, so that padding is there too.
    samples = [
        PanoramaSample(NAME, views[0], False, tuple(encoded)),
        PanoramaSample(NAME, views[1], False, tuple(encoded[:2])),
    ]
    roles = {"image_token_id": processor.image_token_id, "pad_token_id": int(processor.tokenizer.pad_token_id)}
    batch = collate(samples, **roles)
    labels = batch.pop("labels")
    with torch.no_grad():
        packed = model(**batch).logits
        for row, sample in enumerate(samples):
            found = [packed[row, column - 1] for column in torch.nonzero(labels[row] != IGNORE_INDEX).flatten()]
            alone = []
            for conversation in sample.conversations:
                single = collate([PanoramaSample(NAME, sample.views, False, (conversation,))], **roles)
                wanted = single.pop("labels")[0]
                logits = model(**single).logits[0]
                alone += [logits[column - 1] for column in torch.nonzero(wanted != IGNORE_INDEX).flatten()]
            torch.testing.assert_close(torch.stack(found), torch.stack(alone), rtol=1e-4, atol=1e-4)
