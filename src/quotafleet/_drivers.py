"""The drivers: perform what flows ask for, in a thread or in a task.

A flow is advanced by its engine, under the engine's lock; what takes time (sleeping, sending, a
remote store) is done here, outside it. `quotafleet.simulate` is the third driver.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from math import inf
from threading import TIMEOUT_MAX, Event
from typing import Final, Protocol, TypeVar

from ._clock import Clock
from ._core.admission.effects import Effect, Grant, Release, Reserve, Send, Settle, Wait
from ._core.quota.reservations import ClaimAnswer, Reservation, Settlement
from .limits import Costs
from .protocols import Store

T = TypeVar("T")

_UNUSED: Final[Costs] = (0, 0, 0, 0, 0, 0, 0)


class FlowEngine(Protocol):
    """What drivers need of a pool."""

    @property
    def clock(self) -> Clock:
        """What tells the time."""
        ...

    @property
    def store(self) -> Store:
        """Where buckets live."""
        ...

    def advance(
        self,
        flow: Generator[Effect, tuple[float, object], T],
        told: tuple[float, object] | None,
        error: BaseException | None,
    ) -> Effect:
        """Advance a flow to the next effect that takes time."""
        ...

    def finish(self, settle: Settle) -> None:
        """Take in what became of a grant."""
        ...

    async def afinish(self, settle: Settle) -> None:
        """Do as `finish`."""
        ...


def run(
    engine: FlowEngine,
    flow: Generator[Effect, tuple[float, object], T],
    send: Callable[[Grant], object] | None = None,
) -> T:
    """Drive a flow in this thread."""
    told: tuple[float, object] | None = None
    error: BaseException | None = None
    while True:
        try:
            effect = engine.advance(flow, told, error)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        try:
            result, error = _perform(engine, effect, send), None
        except BaseException as failure:  # thrown into the flow, which settles and re-raises
            result, error = None, failure
        told = (engine.clock.now(), result)


def _perform(engine: FlowEngine, effect: Effect, send: Callable[[Grant], object] | None) -> object:
    match effect:
        case Wait():
            _sleep(effect, engine.clock.now())
        case Send() if send is not None:
            return send(effect.grant)
        case Reserve():
            return engine.store.reserve(effect.claim, engine.clock.now())
        case Settle():
            engine.finish(effect)
        case Release():
            engine.store.settle(_released(effect), engine.clock.now())
    return None


def _sleep(wait: Wait, now: float) -> None:
    for_seconds = min(max(0.0, wait.until - now), TIMEOUT_MAX)
    alarm = Event()
    waiter = wait.waiter
    if waiter is None:
        alarm.wait(for_seconds)
        return
    waiter.wake = alarm.set
    if not waiter.woken:  # read after `wake` is set: whoever wakes writes them the other way
        alarm.wait(for_seconds)
    waiter.wake = None


async def arun(
    engine: FlowEngine,
    flow: Generator[Effect, tuple[float, object], T],
    send: Callable[[Grant], Awaitable[object]] | None = None,
) -> T:
    """Drive a flow in this task."""
    told: tuple[float, object] | None = None
    error: BaseException | None = None
    while True:
        try:
            effect = engine.advance(flow, told, error)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        try:
            result, error = await _aperform(engine, effect, send), None
        except BaseException as failure:  # thrown into the flow, which settles and re-raises
            result, error = None, failure
        told = (engine.clock.now(), result)


async def _aperform(
    engine: FlowEngine, effect: Effect, send: Callable[[Grant], Awaitable[object]] | None
) -> object:
    match effect:
        case Wait():
            await _asleep(effect, engine.clock.now())
        case Send() if send is not None:
            return await send(effect.grant)
        case Reserve():
            return await _areserve(engine, effect)
        case Settle():
            await engine.afinish(effect)
        case Release():
            await engine.store.asettle(_released(effect), engine.clock.now())
    return None


async def _areserve(engine: FlowEngine, effect: Reserve) -> ClaimAnswer:
    """Ask a remote store. What it granted to a task that is cancelled meanwhile goes back."""
    work = engine.store.areserve(effect.claim, engine.clock.now())
    answer, cancelled = await to_the_end(work)
    if cancelled is not None:
        taken = answer if isinstance(answer, Reservation) else getattr(answer, "future", None)
        if taken is not None and taken is not effect.claim.held:
            await engine.store.asettle(Settlement(taken, _UNUSED), engine.clock.now())
        raise cancelled
    return answer


async def _asleep(wait: Wait, now: float) -> None:
    for_seconds = max(0.0, wait.until - now)
    waiter = wait.waiter
    if waiter is None:
        await asyncio.sleep(for_seconds)
        return
    loop = asyncio.get_running_loop()
    alarm = loop.create_future()
    timer = None
    if for_seconds < inf:
        timer = loop.call_later(for_seconds, _ring, alarm)
    waiter.wake = lambda: _ring_from_anywhere(loop, alarm)
    try:
        if not waiter.woken:
            await alarm
    finally:
        waiter.wake = None
        if timer is not None:
            timer.cancel()


def _released(release: Release) -> Settlement:
    return Settlement(release.reservation, _UNUSED)


async def to_the_end(work: Awaitable[T]) -> tuple[T, asyncio.CancelledError | None]:
    """Await work that must not be left half done; return what cancelled the task meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
    return task.result(), cancelled


def _ring(alarm: asyncio.Future[None]) -> None:
    if not alarm.done():
        alarm.set_result(None)


def _ring_from_anywhere(loop: asyncio.AbstractEventLoop, alarm: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_ring, alarm)
    except RuntimeError:  # its loop was closed under it: nobody is there to be woken
        pass
