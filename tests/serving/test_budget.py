"""Decoded pixels in memory are bounded: who comes later waits, and goes on when there is room."""

from __future__ import annotations

import asyncio

import pytest

from cora.serving.budget import PixelBudget


async def waits(task: asyncio.Task) -> bool:
    await asyncio.sleep(0.01)
    return not task.done()


def test_later_panoramas_wait_for_room():
    async def run() -> None:
        budget = PixelBudget(100)
        await budget.take(60)
        await budget.take(40)
        third, fourth = (asyncio.create_task(budget.take(50)) for _ in range(2))
        assert await waits(third)
        await budget.give_back(40)
        assert await waits(third)
        await budget.give_back(60)
        await asyncio.gather(third, fourth)

    asyncio.run(run())


def test_one_larger_than_the_budget_goes_alone():
    async def run() -> None:
        budget = PixelBudget(100)
        await budget.take(500)
        other = asyncio.create_task(budget.take(1))
        assert await waits(other)
        await budget.give_back(500)
        await other

    asyncio.run(run())


def test_one_that_is_given_up_takes_no_room():
    async def run() -> None:
        budget = PixelBudget(100)
        await budget.take(100)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(budget.take(100), 0.01)
        await budget.give_back(100)
        await asyncio.wait_for(budget.take(100), 1)

    asyncio.run(run())
