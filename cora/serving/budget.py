"""How many decoded pixels are in memory at once."""

from __future__ import annotations

import asyncio

__all__ = ["PixelBudget"]


class PixelBudget:
    """Lets in decoded pixels up to a limit; who comes later waits.

    A panorama that is larger than the whole limit is let in when it is alone.

    Args:
        most: Most pixels at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._changed = asyncio.Condition()

    async def take(self, pixels: int) -> None:
        """Wait for room for a panorama."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._taken == 0 or self._taken + pixels <= self._most)
            self._taken += pixels

    async def give_back(self, pixels: int) -> None:
        """Make room."""
        async with self._changed:
            self._taken -= pixels
            self._changed.notify_all()
