"""Something that serves one at a time: a link, a storage, a process that moves blocks."""

from __future__ import annotations

import asyncio
import time


class Line:
    """First come, first served. It works on without a pause while anybody waits: a sleeper that wakes late, as it does
    on a busy machine, delays nobody but itself."""

    def __init__(self) -> None:
        self.free_at = 0.0

    async def serve(self, seconds: float) -> None:
        """Returns when these seconds of work are done, after those of everybody who came before."""
        now = time.monotonic()
        self.free_at = max(now, self.free_at) + seconds
        await asyncio.sleep(self.free_at - now)
