"""Sends the lines of a batch and writes down the answers, a bounded number at a time.

It knows neither the network nor the terminal: lines come from an iterator, are sent by a function
that is given, and go to an output; whoever watches reads the `Tally`. As many tasks as the window
is wide take line after line, so memory doesn't grow with the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ._lines import BatchRequest
from ._output import BatchAnswer, BatchOutput, Failure

#: Makes one request to the end, retries and all. It doesn't raise.
Sender = Callable[[BatchRequest], Awaitable[BatchAnswer | Failure]]

#: Requests under way at a time. Most of them wait for headroom; enough are left in flight for
#: 128 requests per second of 2 s each.
WINDOW: Final = 256
#: Seconds that calls in flight get to end after the first Ctrl-C: their answers are paid for.
GRACE: Final = 5.0


@dataclass(slots=True, kw_only=True)
class Tally:
    """How far a batch is.

    Args:
        total: lines that can be sent.
        before: lines that an earlier run did.
        broken: lines that can't be sent.
        answered: lines answered by this run.
        failed: lines that failed in this run.
        codes: how often each kind of failure was seen: an HTTP status, or a code.
        halted: why no further line is sent; "" = it goes on.
    """

    total: int = 0
    before: int = 0
    broken: int = 0
    answered: int = 0
    failed: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    halted: str = ""

    @property
    def done(self) -> int:
        """Lines that need not be sent any more."""
        return self.before + self.answered + self.failed

    @property
    def left(self) -> int:
        """Lines without a result."""
        return self.total - self.done

    def count(self, result: BatchAnswer | Failure) -> None:
        """Count the result of a line."""
        if result.ok:
            self.answered += 1
            return
        self.failed += 1
        code = str(result.status_code) if isinstance(result, BatchAnswer) else result.code
        self.codes[code] = self.codes.get(code, 0) + 1


async def run(
    requests: Iterator[BatchRequest],
    send: Sender,
    output: BatchOutput,
    tally: Tally,
    *,
    window: int = WINDOW,
    stop: asyncio.Event | None = None,
    grace: float = GRACE,
) -> None:
    """Send every request and write down its result, in the order in which they come.

    Args:
        requests: taken one by one, when a place in the window is free.
        send: makes one request.
        output: where results go.
        tally: counts them.
        window: requests under way at a time.
        stop: set it to begin no further request.
        grace: seconds that those under way get then.

    Raises:
        OSError: the output can't be written.
    """
    stop = stop or asyncio.Event()

    async def work() -> None:
        for request in requests:  # shared: each line is taken by one task
            result = await send(request)
            if isinstance(result, Failure) and result.is_final:
                tally.halted = result.message
                stop.set()
            else:
                output.write(request.custom_id, result)
                tally.count(result)
            if stop.is_set():
                return

    workers: list[asyncio.Task[None]] = []
    try:
        for _ in range(window):
            workers.append(asyncio.create_task(work()))
            # One after the other, so that the first request leaves before the last one is built:
            # a burst that reaches the provider late finds its bucket less refilled than the pool.
            await asyncio.sleep(0)
        workers.append(asyncio.create_task(_end(tuple(workers), stop, grace)))
        await _first_fault(workers[:-1])
    finally:
        await _cancelled(workers)


async def _first_fault(workers: Sequence[asyncio.Task[None]]) -> None:
    """Wait until all are done; raise what the first that failed raised."""
    done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    for worker in done:
        if not worker.cancelled():
            worker.result()


async def _end(workers: Sequence[asyncio.Task[None]], stop: asyncio.Event, grace: float) -> None:
    await stop.wait()
    _, late = await asyncio.wait(workers, timeout=grace)
    for worker in late:
        worker.cancel()


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
