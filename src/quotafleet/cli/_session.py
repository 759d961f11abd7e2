"""A run of the engine over a pool: the SDK's client, the progress, and Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from rich.console import Console

from ..pool import KeyPool
from ._engine import GRACE, Tally, run
from ._lines import BatchRequest
from ._output import BatchOutput
from ._progress import ProgressMeter, watch
from ._sender import sender


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a run needs, and where it is shown.

    Args:
        pool: whose keys send.
        output: where results go.
        tally: counts them.
        window: requests under way at a time.
        console: where progress is shown; ``None`` = nowhere.
        seconds: after which it ends, whatever is left; ``None`` = when all is done.
    """

    pool: KeyPool
    output: BatchOutput
    tally: Tally
    window: int
    console: Console | None = None
    seconds: float | None = None

    async def send(self, requests: Iterator[BatchRequest]) -> int:
        """Send them; return the number of the signal that ended it, 0 if none did.

        Raises:
            OSError: the output can't be written.
        """
        stop = asyncio.Event()
        grace = GRACE if self.seconds is None else 0.0
        if self.seconds is not None:
            asyncio.get_running_loop().call_later(self.seconds, stop.set)
        progress = asyncio.create_task(self._watch())
        try:
            async with sender(self.pool) as send:
                with _signals(stop) as caught:
                    await run(
                        requests,
                        send,
                        self.output,
                        self.tally,
                        window=self.window,
                        stop=stop,
                        grace=grace,
                    )
        finally:
            progress.cancel()
            with suppress(asyncio.CancelledError):
                await progress
        return caught[0] if caught else 0

    async def _watch(self) -> None:
        if self.console is not None:
            await watch(ProgressMeter(self.pool, self.tally), self.console)


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[list[int]]:
    """Let the first Ctrl-C, or SIGTERM, end a run in good order, and the second at once."""
    caught: list[int] = []
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def on(number: int) -> None:
        caught.append(number)
        stop.set()
        if len(caught) > 1 and task is not None:
            task.cancel()

    known = (signal.SIGINT, signal.SIGTERM)
    with suppress(NotImplementedError, RuntimeError):  # Windows; not the main thread
        for number in known:
            loop.add_signal_handler(number, on, number)
    try:
        yield caught
    except asyncio.CancelledError:
        if not caught:
            raise
    finally:
        with suppress(NotImplementedError, RuntimeError):
            for number in known:
                loop.remove_signal_handler(number)
