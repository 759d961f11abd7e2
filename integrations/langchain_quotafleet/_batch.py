"""`abatch` of thousands of inputs: as many calls under way as there can be connections.

LangChain starts a task for each input at once. Until the last of them has prepared its request
none is sent (a second for 300 of them), and all of them are held in memory. Here calls begin one
after another while earlier ones are being sent, and a call that ends makes room for the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list

T = TypeVar("T")

#: Calls under way at a time: the connections that stock's clients open at most.
WINDOW: Final = 1000
#: Calls that begin in a row before those that began are looked after.
_AT_ONCE: Final = 4


class PacedBatch:
    """An `abatch` for models: calls begin one after another."""

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Return what came of the inputs, in their order.

        At most 1,000 are under way, or as many as ``config={"max_concurrency": n}`` says. The
        first error ends the calls under way, unless `return_exceptions`.
        """
        llm: Any = self
        call = partial(llm.ainvoke, **kwargs)
        return await _abatch(call, inputs, config, return_exceptions=return_exceptions)


async def _abatch(
    call: Callable[..., Awaitable[T]],
    inputs: Sequence[Any],
    config: RunnableConfig | list[RunnableConfig] | None,
    *,
    return_exceptions: bool,
) -> list[T | Exception]:
    """Return what came of the inputs, in their order.

    Raises:
        BaseException: the first one, after the calls still under way were cancelled; a call's own
            cancellation is one too. An `Exception` is not raised if it is to be returned.
    """
    configs = get_config_list(config, len(inputs))
    results: list[Any] = [None] * len(inputs)
    failures: list[BaseException] = []
    calls: set[asyncio.Task[None]] = set()
    batch = asyncio.current_task()
    asked = batch.cancelling() if batch else 0
    room = asyncio.Semaphore(configs[0].get("max_concurrency") or WINDOW if configs else 1)

    async def one(place: int) -> None:
        try:
            results[place] = await call(inputs[place], configs[place])
        except BaseException as error:  # the caller's, whatever it is
            results[place] = error
            if not (return_exceptions and isinstance(error, Exception)):
                end(error)
        finally:
            room.release()

    def end(error: BaseException) -> None:
        if failures or (batch and batch.cancelling() > asked):
            return  # all have been told, and are not to be interrupted twice
        failures.append(error)
        for other in calls:
            other.cancel()

    # Calls raise nothing here: a task group takes no notice of one that was cancelled, and for any
    # other it cancels the batch's own task, which before Python 3.13 is not always undone.
    async with asyncio.TaskGroup() as group:
        for place in range(len(inputs)):
            await room.acquire()
            if failures:
                break
            task = group.create_task(one(place))
            calls.add(task)
            task.add_done_callback(calls.discard)
            if place % _AT_ONCE == 0:
                await asyncio.sleep(0)
    if failures:
        raise failures[0]
    return results
