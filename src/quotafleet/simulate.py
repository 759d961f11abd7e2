"""The third driver: production flows on a simulated clock, a day in a second.

Threads and asyncio sleep; this one keeps a heap of instants and moves the clock to the next. What
it drives is the scheduler, ledger and queue that run in production, so a test or a plan made here
says what they will do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from ._core.admission.effects import Effect, Grant, Send, Settle, Wait
from ._core.admission.wait_queue import Priority
from ._core.call.flow import AttemptResult
from ._lease import Lease
from .errors import CannotServe
from .pool import KeyPool
from .testing.clock import FakeClock
from .usage import Demand, Usage

T = TypeVar("T")

#: What a simulated attempt answers: the seconds it takes, and its reply.
Sent = tuple[float, AttemptResult[object]]


class Simulation:
    """Runs calls of a pool whose clock is a `FakeClock`, which nobody else advances.

    Args:
        pool: made with ``clock=clock``.
        clock: moved by `run`.
    """

    def __init__(self, pool: KeyPool, clock: FakeClock) -> None:
        self._pool = pool
        self._clock = clock
        self._numbers = count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, instant: float, do: Callable[[], None]) -> None:
        """Do something at an instant; what is due at once is done in the order of asking."""
        heappush(self._agenda, (instant, next(self._numbers), do))

    def run(self, until: float = float("inf")) -> None:
        """Do all that is due up to an instant, moving the clock from one to the next."""
        while self._agenda and self._agenda[0][0] <= until:
            instant, _, do = heappop(self._agenda)
            self._clock.advance(max(0.0, instant - self._clock.now()))
            do()
        if until < float("inf"):
            self._clock.advance(max(0.0, until - self._clock.now()))

    def lease(  # noqa: PLR0913 - what a call may say, and what is to follow
        self,
        demand: Demand,
        *,
        at: float,
        hold_for: float = 0.0,
        usage: Usage | None = None,
        timeout: float | None = None,
        priority: Priority = "normal",
        tenant: str | None = None,
        granted: Callable[[Lease], None] = lambda lease: None,
        refused: Callable[[CannotServe], None] | None = None,
    ) -> None:
        """Let a call lease a key at an instant, and settle it `hold_for` seconds after that."""

        def begin() -> None:
            order = self._pool.order(demand, timeout=timeout, priority=priority, tenant=tenant)
            Process(self, self._pool, self._pool.flow(order), done=hold, failed=refused).resume()

        def hold(grant: Grant) -> None:
            lease = self._pool.leased(grant)
            granted(lease)
            self.at(self._clock.now() + hold_for, lambda: lease.settle(usage))

        self.at(at, begin)

    def call(
        self,
        demand: Demand,
        *,
        at: float,
        send: Callable[[Lease], Sent],
        done: Callable[[Lease, AttemptResult[object]], None],
        refused: Callable[[CannotServe], None] | None = None,
    ) -> None:
        """Let a whole call begin at an instant: attempts, backoff and failover as in production."""

        def begin() -> None:
            flow = self._pool.call_flow(self._pool.order(demand))
            Process(
                self,
                self._pool,
                flow,
                send=lambda grant: send(self._pool.leased(grant)),
                done=lambda result: done(Lease(self._pool, result[0]), result[1]),
                failed=refused,
            ).resume()

        self.at(at, begin)

    def now(self) -> float:
        """Return the simulated instant."""
        return self._clock.now()


class Process(Generic[T]):
    """One flow on the simulated clock."""

    def __init__(
        self,
        simulation: Simulation,
        pool: KeyPool,
        flow: Generator[Effect, tuple[float, object], T],
        *,
        done: Callable[[T], None],
        failed: Callable[[CannotServe], None] | None = None,
        send: Callable[[Grant], Sent] | None = None,
    ) -> None:
        self._simulation = simulation
        self._pool = pool
        self._flow = flow
        self._done = done
        self._failed = failed
        self._send = send
        self._told: tuple[float, object] | None = None
        self._sleep = 0

    def resume(self, result: object = None) -> None:
        """Advance the flow until it sleeps, sends or ends."""
        if self._sleep:
            self._told = (self._simulation.now(), result)
        while True:
            self._sleep += 1
            try:
                effect = self._pool.advance(self._flow, self._told, None)
            except StopIteration as stop:
                self._done(stop.value)
                return
            except CannotServe as refusal:
                if self._failed is None:
                    raise
                self._failed(refusal)
                return
            if not self._perform(effect):
                return
            self._told = (self._simulation.now(), None)

    def _perform(self, effect: Effect) -> bool:
        """Carry an effect out; return whether the flow goes on at once."""
        if isinstance(effect, Settle):
            self._pool.finish(effect)
            return True
        if isinstance(effect, Wait):
            wake = self._waker()
            if effect.waiter is not None:
                effect.waiter.wake = lambda: self._simulation.at(self._simulation.now(), wake)
            if effect.until < float("inf"):
                self._simulation.at(effect.until, wake)
            return False
        if isinstance(effect, Send) and self._send is not None:
            seconds, reply = self._send(effect.grant)
            self._simulation.at(self._simulation.now() + seconds, lambda: self.resume(reply))
            return False
        raise TypeError(f"a simulation can't perform {type(effect).__name__}: its store is remote")

    def _waker(self) -> Callable[[], None]:
        """Return what ends this sleep, and no later one."""
        sleep = self._sleep

        def wake() -> None:
            if sleep == self._sleep:
                self.resume()

        return wake
