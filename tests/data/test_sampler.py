"""LengthGroupedSampler: every sample once, like lengths together, and an order that goes on where training was."""

from __future__ import annotations

import random

import pytest

from cora.data.sampler import LengthGroupedSampler
from cora.errors import CheckpointError

NUM = 103
LENGTHS = [random.Random(7 * number).randint(10, 500) for number in range(NUM)]


def make(batch_size: int = 4, accumulate: int = 2, **options: int) -> LengthGroupedSampler:
    return LengthGroupedSampler(LENGTHS, NUM, batch_size=batch_size, accumulate=accumulate, seed=3, **options)


def batches(sampler: LengthGroupedSampler) -> list[list[int]]:
    drawn = list(sampler)
    size = sampler.batch_size
    return [drawn[start : start + size] for start in range(0, len(drawn), size)]


@pytest.mark.parametrize("lengths", [LENGTHS, None, [5] * NUM])
def test_an_epoch_is_every_sample_once(lengths: list[int] | None) -> None:
    sampler = LengthGroupedSampler(lengths, NUM, batch_size=4, accumulate=2)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(NUM))
        assert len(sampler) == NUM
    assert orders[0] != orders[1] != orders[2]


def test_samples_of_a_step_are_of_like_length() -> None:
    def padding(order: list[int]) -> float:
        groups = [order[start : start + 8] for start in range(0, NUM, 8)]
        return sum(len(group) * max(LENGTHS[item] for item in group) for group in groups) / sum(LENGTHS)

    plain = LengthGroupedSampler(None, NUM, batch_size=4, accumulate=2, seed=3)
    assert padding(list(make())) < 1.2 < 1.5 < padding(list(plain))
    longest = [max(LENGTHS[item] for item in batch) for batch in batches(make())]
    assert longest != sorted(longest, reverse=True)


def test_what_was_loaded_ahead_is_not_trained_on() -> None:
    whole = batches(make())
    sampler = make()
    ahead = iter(sampler)
    for _ in range(40):
        next(ahead)
    for _ in range(6):
        sampler.advance()
    state = sampler.state_dict()
    assert state["position"] == 24
    resumed = make()
    resumed.load_state_dict(state)
    assert batches(resumed) == whole[6:]
    assert resumed.batches_trained == 6
    assert len(resumed) == NUM
    resumed.set_epoch(0)
    assert batches(resumed) == whole[6:]
    resumed.set_epoch(1)
    assert sorted(resumed) == list(range(NUM))


def test_the_last_batch_ends_the_epoch() -> None:
    sampler = make()
    for _ in range(sampler.num_batches):
        sampler.advance()
    assert (sampler.position, sampler.batches_trained, list(sampler)) == (NUM, 26, [])


@pytest.mark.parametrize(("batch_size", "accumulate", "num_replicas"), [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 2, 4)])
def test_other_devices_and_batches_go_on_in_the_same_order(batch_size: int, accumulate: int, num_replicas: int) -> None:
    first = make()
    for _ in range(6):
        first.advance()
    expected = make()
    expected.load_state_dict(first.state_dict())
    ranks = []
    for rank in range(num_replicas):
        sampler = make(batch_size, accumulate, num_replicas=num_replicas, rank=rank)
        sampler.load_state_dict(first.state_dict())
        ranks.append(batches(sampler))
        assert sampler.batches_trained * sampler.batch_of_all == 24
    steps = [
        sorted(item for rank in ranks for batch in rank[k : k + accumulate] for item in batch)
        for k in range(0, 9 * accumulate, accumulate)
    ]
    wanted = list(expected)
    for number, step in enumerate(steps):
        assert step == sorted(wanted[8 * number : 8 * (number + 1)])
    assert len({len(rank) for rank in ranks}) == 1
    drawn = [item for rank in ranks for batch in rank for item in batch]
    assert set(drawn) == set(wanted)
    assert len(drawn) - len(wanted) == -len(wanted) % num_replicas


def test_what_would_be_another_order_is_refused() -> None:
    state = make().state_dict()
    with pytest.raises(CheckpointError, match=r"16 samples per step and was 8"):
        make(batch_size=8).load_state_dict(state)
    other = LengthGroupedSampler(None, 50, batch_size=4, accumulate=2)
    with pytest.raises(CheckpointError, match=r"there are 50 training samples now and were 103"):
        other.load_state_dict(state)
