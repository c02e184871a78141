"""Tasks that run as long as their owner: started, watched and stopped in one way."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from cluster.errors import EngineFailed


class Background:
    """One task. It is not meant to end: if it does, ``check`` says so to whoever asks after the process's health."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(work, name=self._name)

    def check(self) -> None:
        """Raises EngineFailed if the task has ended by itself."""
        if self._task is not None and self._task.done():
            raise EngineFailed(f"the task {self._name!r} ended")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
